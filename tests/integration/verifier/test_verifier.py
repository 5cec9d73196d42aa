"""The verifier on a real Valkey, with its real grading processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from dapo.algo.text_statistics import measure_text
from dapo.bus import Bus, Delivery
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.spec import RunSpec
from dapo.spec.tree.graders import PythonGrader
from dapo.v1 import messages_pb2 as pb
from services.verifier.grading.dispatch import Grading
from services.verifier.worker import Verifier
from tests.support.bus import RUN, drive, stored_payloads, stream_length
from tests.support.verifier.code import descendants
from tests.support.verifier.http_service import Answer, Service, serving

MISBEHAVING = PythonGrader(function="tests.support.verifier.graders:misbehave", max_characters=1_000_000)
WAIT_S = 60.0
POLL_S = 0.05


def make_spec(*, sections: dict[str, Any] | None = None, **reward: Any) -> RunSpec:
    return RunSpec.model_validate(
        {
            "model": {"path": "m"},
            "data": {"path": "d.jsonl"},
            "sampling": {"group_size": 4, "max_response_tokens": 20},
            "reward": {"overlong_buffer_tokens": 10, **reward},
            **(sections or {}),
        }
    )


async def write_group(
    bus: Bus,
    number: int,
    texts: Sequence[bytes | None],
    *,
    grader: str = "exact",
    gold: str = "good",
    tokens: int = 5,
    finish: pb.FinishReason = pb.FINISH_REASON_STOP,
) -> str:
    """A generated group, a response for each text; None leaves the payload out."""
    group_id = f"g{number:010d}"
    epoch = await bus.acquire_epoch("orchestrator")
    task = pb.PromptTask(group_id=group_id, gold=gold, grader=grader, group_size=len(texts))
    await bus.issue_groups([task], epoch)
    completions = [
        pb.Completion(
            group_id=group_id,
            index=index,
            attempt=1,
            payload_key=bus.payload_key(group_id, index, 1),
            text_key=bus.text_key(group_id, index, 1),
            response_tokens=tokens + index,
            finish_reason=finish,
        )
        for index in range(len(texts))
    ]
    blobs = {one.text_key: text for one, text in zip(completions, texts, strict=True) if text is not None}
    if blobs:
        await bus.put_payloads(blobs)
    await bus.write_completions(completions)
    return group_id


@asynccontextmanager
async def verifying(bus: Bus, spec: RunSpec, worker_id: str = "verifier-0") -> AsyncIterator[None]:
    """A verifier at work in this process, its grading in processes of its own."""
    grading = Grading({**spec.named_graders, "misbehaving": MISBEHAVING}, spec.reward)
    task = asyncio.create_task(Verifier(bus, grading, spec, worker_id).run())
    try:
        yield
    finally:
        assert not task.done(), task.exception()
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def scored(bus: Bus, count: int) -> list[Delivery]:
    """The next `count` entries of `scored`, and no more than those."""
    found: list[Delivery] = []
    async with asyncio.timeout(WAIT_S):
        while len(found) < count:
            found += await bus.consume("scored", "orchestrator-0", count=1000, block_s=1)
    assert len(found) == count
    return found


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(int(WAIT_S / POLL_S)):
        if await condition():
            return
        await asyncio.sleep(POLL_S)
    raise AssertionError(f"waited {WAIT_S:g} s in vain")


async def assert_all_done(bus: Bus) -> None:
    assert await stream_length(bus, "completions") == 0
    assert await stream_length(bus, "scored") == 0


async def settle_all(bus: Bus, deliveries: Sequence[Delivery]) -> None:
    epoch = await bus.acquire_epoch("orchestrator")
    for delivery in deliveries:
        await bus.settle_group(delivery, delivery.data.decode(), "filtered", "", epoch)


def test_completions_become_one_scored_group_with_shaped_rewards(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good", b" good\n", b"bad", b""], tokens=10)
        async with verifying(bus, make_spec()):
            deliveries = await scored(bus, 1)
        assert [one.data.decode() for one in deliveries] == [group_id]
        record = await bus.read_group(group_id)
        assert record.state == "scored"
        grades = record.grades
        assert [grade.correct for grade in grades] == [True, True, False, False]
        assert [grade.reason for grade in grades] == ["equal", "equal", "different", "no_answer"]
        assert [grade.overlong_penalty for grade in grades] == pytest.approx([0, -0.1, -0.2, -0.3])
        assert [grade.reward for grade in grades] == pytest.approx([1, 0.9, -1.2, -1.3])
        assert [grade.completion.index for grade in grades] == [0, 1, 2, 3]
        await settle_all(bus, deliveries)
        await assert_all_done(bus)
        assert await bus.read_dead_letters() == []

    drive(valkey.url, scenario)


def test_a_grade_tells_how_the_whole_text_is_written(valkey: EmbeddedValkey) -> None:
    """The grader reads the end of a text; what is measured covers all of it."""
    long = "Wait. " + "so it is 3 then " * 2000 + "Answer: 34"
    texts = [long, "Answer: 34", "Answer: 34", ""]

    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [text.encode() for text in texts], grader="math_dapo", gold="34")
        spec = make_spec()
        async with verifying(bus, spec):
            await scored(bus, 1)
        grades = (await bus.read_group(group_id)).grades
        expected = [measure_text(text, spec.metrics.reflection_patterns) for text in texts]
        assert [grade.fingerprint for grade in grades] == [one.fingerprint for one in expected]
        assert [grade.repetition for grade in grades] == pytest.approx([one.repetition for one in expected])
        assert [grade.reflection for grade in grades] == [True, False, False, False]
        assert all(grade.HasField("repetition") and grade.HasField("reflection") for grade in grades)
        assert [grade.correct for grade in grades] == [True, True, True, False]

    drive(valkey.url, scenario)


def test_a_pattern_that_takes_forever_costs_no_verdict(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good", b"a" * 60 + b"b"])
        patterns = {"metrics": {"reflection_patterns": ["(a+)+$"]}}
        async with verifying(bus, make_spec(grader_timeout_s=1.0, sections=patterns)):
            await scored(bus, 1)
        grades = (await bus.read_group(group_id)).grades
        assert [grade.reason for grade in grades] == ["equal", "different"]
        assert [grade.HasField("fingerprint") for grade in grades] == [True, False]

    drive(valkey.url, scenario)


@pytest.mark.parametrize(("mode", "rewards"), [("graded", [1, -1]), ("incorrect", [-1, -1])])
def test_a_truncated_response_keeps_its_verdict_and_is_rewarded_by_the_spec(
    valkey: EmbeddedValkey, mode: str, rewards: list[float]
) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good", b"bad"], finish=pb.FINISH_REASON_LENGTH)
        async with verifying(bus, make_spec(sections={"algorithm": {"truncated_reward": mode}})):
            await scored(bus, 1)
        grades = (await bus.read_group(group_id)).grades
        assert [grade.correct for grade in grades] == [True, False]
        assert [grade.reward for grade in grades] == rewards

    drive(valkey.url, scenario)


def test_many_groups_are_each_announced_once(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus, other: Bus) -> None:
        groups = {await write_group(bus, number, [b"Answer: 34", b"Answer: 35"] * 4, grader="math_dapo", gold="34")
                  for number in range(100)}  # fmt: skip
        async with verifying(bus, make_spec()), verifying(other, make_spec(), "verifier-1"):
            deliveries = await scored(bus, 100)
        assert {one.data.decode() for one in deliveries} == groups
        for record in await bus.read_groups(sorted(groups)):
            assert [grade.correct for grade in record.grades] == [True, False] * 4
        await settle_all(bus, deliveries)
        await assert_all_done(bus)

    drive(valkey.url, scenario, buses=2)


@pytest.mark.parametrize(("bad", "reason"), [(b"hang", "timeout"), (b"hang in C", "timeout"), (b"exit", "crash")])
def test_a_misbehaving_grading_costs_one_verdict(valkey: EmbeddedValkey, bad: bytes, reason: str) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good", bad, b"good", b"bad"], grader="misbehaving")
        async with verifying(bus, make_spec(grader_timeout_s=1.0)):
            await scored(bus, 1)
        grades = (await bus.read_group(group_id)).grades
        assert [grade.reason for grade in grades] == ["equal", reason, "equal", "different"]
        assert grades[1].reward == pytest.approx(-1)

    drive(valkey.url, scenario)


def test_verdicts_that_are_no_text_are_written(valkey: EmbeddedValkey) -> None:
    """Lone surrogates of a user's grader, of a program and of a service."""

    async def scenario(bus: Bus) -> None:
        body = b'{"results": [{"score": 0.0, "reason": "no \\ud800"}]}'
        tests = '{"tests": [{"input": "", "output": "1"}]}'
        program = b"raise ValueError('\\ud800')"
        called = b"def f(x):\n    raise ValueError('\\ud800')"
        with serving(lambda number, _: Answer(body)) as service:
            await write_group(bus, 0, [b"surrogate", b"raise a surrogate"], grader="misbehaving")
            await write_group(bus, 1, [b"x"], grader="outside")
            await write_group(bus, 2, [program], grader="code", gold=tests)
            await write_group(bus, 3, [called], grader="code", gold='{"asserts": "assert f(1) == 2"}')
            async with verifying(bus, make_spec(graders={"outside": {"type": "remote", "url": service.url}})):
                deliveries = await scored(bus, 4)
        records = await bus.read_groups(sorted(one.data.decode() for one in deliveries))
        mine, raised, outside, code, call = (grade for record in records for grade in record.grades)
        assert (mine.reason, dict(mine.parts)) == ("different \\udfff", {"\\udc00": 1.0})
        assert mine.extracted == ("\\ud800" * 150)[:200]
        assert (raised.reason, raised.extracted) == ("crash", "ValueError: \\ud800")
        assert outside.extracted == "no \\ud800"
        assert "ValueError: \\ud800" in code.extracted
        assert "ValueError: \\ud800" in call.extracted
        await settle_all(bus, deliveries)

    drive(valkey.url, scenario)


def test_hostile_texts_are_graded(valkey: EmbeddedValkey) -> None:
    texts = [
        b"\xff\xfe\x00Answer: 34",
        b"Answer: " + b"{" * 5000,
        b"Answer: 9^{9^{9^9}}",
        b"Answer: \\frac" * 20_000,
        "Answer: ٣٤".encode(),
        b"\n" * 1_000_000 + b"Answer: 34",
        b'[true, 1.0, "equal", ""]\nAnswer: 3"],[4',
        b"",
    ]

    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, texts, grader="math_dapo", gold="34")
        async with verifying(bus, make_spec()):
            await scored(bus, 1)
        grades = (await bus.read_group(group_id)).grades
        assert [grade.correct for grade in grades] == [True, False, False, False, False, True, False, False]
        assert max(len(grade.extracted) for grade in grades) <= 200

    drive(valkey.url, scenario)


def test_an_unknown_grader_is_a_typed_verdict(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good"] * 2, grader="oracle")
        async with verifying(bus, make_spec()):
            await scored(bus, 1)
        grades = (await bus.read_group(group_id)).grades
        assert [(grade.correct, grade.reason, grade.extracted) for grade in grades] == [
            (False, "unknown_grader", "oracle")
        ] * 2

    drive(valkey.url, scenario)


async def alerts(bus: Bus) -> list[str]:
    return [data["message"] for _, kind, data in await bus.read_events("0", block_s=0) if kind == "alert"]


def test_a_failed_grading_may_fail_its_group(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        failing = await write_group(bus, 0, [b"good", b"exit", b"good", b"bad"], grader="misbehaving")
        healthy = await write_group(bus, 1, [b"good", b"bad"], grader="misbehaving")
        async with verifying(bus, make_spec(grader_failure="fail_group")):
            deliveries = await scored(bus, 2)
            await until(lambda: nothing_waits(bus))
        record = await bus.read_group(failing)
        assert (record.state, record.reason) == ("failed", "grader_failed")
        assert (await bus.read_group(healthy)).state == "scored"
        (letter,) = await bus.read_dead_letters()
        assert (letter["reason"], letter["detail"]) == ("grader_failed", "response 1: misbehaving: crash")
        await settle_all(bus, [one for one in deliveries if one.data.decode() == healthy])

    drive(valkey.url, scenario)


async def nothing_waits(bus: Bus) -> bool:
    return not await stream_length(bus, "completions")


def test_gradings_that_fail_raise_one_alert(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        for number in range(4):
            await write_group(bus, number, [b"good"] * 8)
        async with verifying(bus, make_spec()):
            await scored(bus, 4)
            assert await alerts(bus) == []
            for number in range(4, 12):
                await write_group(bus, number, [b"good"] * 8, grader="oracle")
            await scored(bus, 8)
        (message,) = await alerts(bus)
        assert message.startswith("verifier-0: ")
        assert "oracle unknown_grader" in message

    drive(valkey.url, scenario)


def test_what_waits_for_a_service_holds_up_nothing_else(valkey: EmbeddedValkey) -> None:
    def answer(number: int, body: Any) -> Answer:
        return Answer({"scores": [1.0] * len(body["items"])}, delay_s=3.0)

    async def scenario(bus: Bus) -> None:
        with serving(answer) as service:
            spec = make_spec(graders={"slow": {"type": "remote", "url": service.url}})
            async with verifying(bus, spec):
                slow = [await write_group(bus, number, [b"good"] * 4, grader="slow") for number in range(12)]
                await until(lambda: asked(service))
                began = time.monotonic()
                quick = [await write_group(bus, number, [b"good"] * 4) for number in range(12, 24)]
                first = await scored(bus, 12)
                assert time.monotonic() - began < 2.5
                assert sorted(one.data.decode() for one in first) == quick
                assert sorted(one.data.decode() for one in await scored(bus, 12)) == slow
            assert service.calls[0]["items"][0]["prompt"] == ""

    async def asked(service: Service) -> bool:
        return bool(service.calls)

    drive(valkey.url, scenario)


def test_a_grader_that_the_spec_names_in_vain_ends_the_service(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        graders = {"mine": {"type": "python", "function": "no_such_package.module:grade"}}
        await bus.create_run(make_spec(graders=graders).model_dump_json(), ".", "now")
        service = start_service(valkey.url, "verifier-0")
        _, error = await asyncio.to_thread(service.communicate, timeout=60)
        assert service.returncode == 1
        last = error.decode().strip().splitlines()[-1]
        assert "reward.graders.mine.function: 'no_such_package.module:grade' cannot be imported" in last
        assert "PYTHONPATH" in last

    drive(valkey.url, scenario)


def test_a_verifier_killed_while_programs_run_loses_nothing(valkey: EmbeddedValkey) -> None:
    gold = '{"tests": [{"input": "1", "output": "1"}, {"input": "2", "output": "2"}]}'
    right, wrong = b"import time\ntime.sleep(0.05)\nprint(input())", b"while True: pass"

    async def scenario(bus: Bus) -> None:
        graders = {"code": {"type": "code", "timeout_s": 1.0}}
        await bus.create_run(make_spec(graders=graders).model_dump_json(), ".", "now")
        groups = [
            await write_group(bus, number, [right, wrong, right, right], grader="code", gold=gold)
            for number in range(12)
        ]
        first = start_service(valkey.url, "verifier-0")
        second = None
        try:
            await until(lambda: running_programs(first.pid))
            first.kill()
            first.wait()
            second = start_service(valkey.url, "verifier-1")
            await until(lambda: at_least_scored(bus, 12))
        finally:
            for service in (first, second):
                if service is not None:
                    service.terminate()
                    await asyncio.to_thread(service.wait, 30)
        entries = await bus.consume("scored", "orchestrator-0", count=1000, block_s=0)
        assert sorted(one.data.decode() for one in entries) == groups
        for record in await bus.read_groups(groups):
            assert [grade.correct for grade in record.grades] == [True, False, True, True]
            assert "took too long" in record.grades[1].extracted

    async def running_programs(pid: int) -> bool:
        return sum("services.verifier.code.template" in one for one in descendants(pid).values()) > 2

    drive(valkey.url, scenario)


def test_a_missing_text_fails_its_group_with_a_reason(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good", None, b"good", None])
        healthy = await write_group(bus, 1, [b"good", b"bad"])
        async with verifying(bus, make_spec()):
            deliveries = await scored(bus, 2)
        assert sorted(one.data.decode() for one in deliveries) == [group_id, healthy]
        record = await bus.read_group(group_id)
        assert (record.state, record.reason) == ("failed", "payload_missing")
        assert (await bus.read_group(healthy)).state == "scored"
        letters = await bus.read_dead_letters()
        assert {letter["reason"] for letter in letters} == {"payload_missing"}
        assert await stream_length(bus, "completions") == 0
        assert not any(group_id in key for key in await stored_payloads(bus))

    drive(valkey.url, scenario)


def test_completions_of_a_closed_group_leave_without_a_trace(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good"] * 4)
        await bus.close_open_groups("drain", await bus.acquire_epoch("orchestrator"))
        await write_group(bus, 1, [b"good", b"bad"])

        async with verifying(bus, make_spec()):
            await scored(bus, 1)
            await until(lambda: nothing_waits(bus))
        assert (await bus.read_group(group_id)).state == "surplus"
        assert await bus.read_dead_letters() == []

    drive(valkey.url, scenario)


def start_service(url: str, worker_id: str) -> subprocess.Popen[bytes]:
    env = {**os.environ, "DAPO_RUN_ID": RUN, "DAPO_REDIS_URL": url, "DAPO_WORKER_ID": worker_id, "DAPO_RUN_DIR": "."}
    return subprocess.Popen([sys.executable, "-m", "services.verifier"], env=env, stderr=subprocess.PIPE)


def test_what_a_killed_verifier_held_is_graded_by_another(valkey: EmbeddedValkey) -> None:
    """The first one takes the completions and is killed before it acknowledges any; its heartbeat then expires."""

    async def scenario(bus: Bus, dying: Bus) -> None:
        await bus.create_run(make_spec().model_dump_json(), ".", "now")
        groups = [await write_group(bus, number, [b"good", b"bad"]) for number in range(3)]
        await dying.heartbeat("verifier", "verifier-0", ttl_s=1.0)
        held = await dying.consume("completions", "verifier-0", count=5, block_s=1)
        assert len(held) == 5
        service = start_service(valkey.url, "verifier-1")
        try:
            deliveries = await scored(bus, 3)
        finally:
            service.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(service.wait, 30)
        assert code == 0, service.stderr and service.stderr.read().decode()
        assert sorted(one.data.decode() for one in deliveries) == groups
        for record in await bus.read_groups(groups):
            assert [grade.correct for grade in record.grades] == [True, False]
        assert await stream_length(bus, "completions") == 0

    drive(valkey.url, scenario, buses=2)


def test_a_verifier_killed_in_the_middle_loses_nothing(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        await bus.create_run(make_spec().model_dump_json(), ".", "now")
        first = start_service(valkey.url, "verifier-0")
        second = start_service(valkey.url, "verifier-1")
        groups = []
        try:
            for number in range(150):
                groups.append(await write_group(bus, number, [b"good", b"bad", b"good", b"bad"]))
                if number == 75:
                    await until(lambda: at_least_scored(bus, 1))
                    first.kill()
            await until(lambda: at_least_scored(bus, 150))
        finally:
            for service in (first, second):
                service.terminate()
                await asyncio.to_thread(service.wait, 30)
        assert second.returncode == 0
        entries = await bus.consume("scored", "orchestrator-0", count=1000, block_s=0)
        assert sorted(one.data.decode() for one in entries) == groups, "each group announced exactly once"
        assert await stream_length(bus, "completions") == 0

    drive(valkey.url, scenario)


async def at_least_scored(bus: Bus, count: int) -> bool:
    return (await bus.ledger_counts())["scored"] >= count


def test_a_service_without_its_run_says_so(valkey: EmbeddedValkey) -> None:
    service = start_service(valkey.url, "verifier-0")
    _, error = service.communicate(timeout=60)
    assert service.returncode == 1
    last = error.decode().strip().splitlines()[-1]
    assert "no run 'test-run'" in last
    assert "DAPO_RUN_ID" in last
