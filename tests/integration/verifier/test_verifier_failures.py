"""The verifier where gradings fail, wait or have nothing to grade."""

import time
from typing import Any

import pytest

from dapo.bus import Bus, attempt_number
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.events import Alert
from services.verifier import worker
from tests.support.bus import drive, make_completion, stored_payloads, stream_length
from tests.support.verifier.http_service import Answer, Service, serving
from tests.support.verifier.service import (
    WAIT_S,
    make_spec,
    nothing_waits,
    scored,
    settle_all,
    until,
    verifying,
    write_group,
)


@pytest.mark.parametrize(("bad", "reason"), [(b"hang", "timeout"), (b"hang in C", "timeout"), (b"exit", "crash")])
def test_a_misbehaving_grading_costs_one_verdict(valkey: EmbeddedValkey, bad: bytes, reason: str) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good", bad, b"good", b"bad"], grader="misbehaving")
        async with verifying(bus, make_spec(grader_timeout_s=1.0)):
            await scored(bus, 1)
        grades = (await bus.groups.read(group_id)).grades
        assert [grade.reason for grade in grades] == ["equal", reason, "equal", "different"]
        assert grades[1].reward == pytest.approx(-1)

    drive(valkey.url, scenario)


def test_an_unknown_grader_is_a_typed_verdict(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good"] * 2, grader="oracle")
        async with verifying(bus, make_spec()):
            await scored(bus, 1)
        grades = (await bus.groups.read(group_id)).grades
        assert [(grade.correct, grade.reason, grade.extracted) for grade in grades] == [
            (False, "unknown_grader", "oracle")
        ] * 2

    drive(valkey.url, scenario)


async def alerts(bus: Bus) -> list[str]:
    return [event.message for _, event in await bus.runs.read_events("0", block_s=0) if isinstance(event, Alert)]


def test_a_failed_grading_may_fail_its_group(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        failing = await write_group(bus, 0, [b"good", b"exit", b"good", b"bad"], grader="misbehaving")
        healthy = await write_group(bus, 1, [b"good", b"bad"], grader="misbehaving")
        async with verifying(bus, make_spec(grader_failure="fail_group")):
            deliveries = await scored(bus, 2)
            await until(lambda: nothing_waits(bus))
        record = await bus.groups.read(failing)
        assert (record.state, record.reason) == ("failed", "grader_failed")
        assert (await bus.groups.read(healthy)).state == "scored"
        (letter,) = await bus.dead_letters.read()
        assert (letter["reason"], letter["detail"]) == ("grader_failed", "response 1: misbehaving: crash")
        await settle_all(bus, [one for one in deliveries if one.data.decode() == healthy])

    drive(valkey.url, scenario)


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


async def generated_again(bus: Bus, text: bytes | None) -> list[int]:
    """What a generator does with one prompt that comes back; the indices. None leaves the texts out."""
    (prompt,) = await bus.streams.consume("prompts", "generator-0", count=1, block_s=WAIT_S)
    missing = await bus.groups.missing_indices(prompt.data.decode())
    attempt = attempt_number(prompt.attempt, 0)
    made = [make_completion(bus, prompt.data.decode(), index, attempt) for index in missing]
    if text is not None:
        await bus.payloads.put({one.text_key: text for one in made})
    await bus.groups.write_completions(made)
    return missing


def test_only_the_response_whose_text_is_lost_is_generated_again(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good", None, b"good", b"bad"])
        async with verifying(bus, make_spec()):
            assert await generated_again(bus, b"good") == [1]
            await scored(bus, 1)
        record = await bus.groups.read(group_id)
        assert [grade.correct for grade in record.grades] == [True, True, True, False]
        assert [grade.completion.attempt for grade in record.grades] == [1, attempt_number(2, 0), 1, 1]
        assert await bus.dead_letters.read() == []
        assert await stream_length(bus, "completions") == 0

    drive(valkey.url, scenario)


def test_a_response_that_is_lost_again_and_again_fails_its_group_with_a_reason(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good", None])
        healthy = await write_group(bus, 1, [b"good", b"bad"])
        async with verifying(bus, make_spec()):
            for _ in range(3):
                assert await generated_again(bus, None) == [1]
            deliveries = await scored(bus, 2)
        assert sorted(one.data.decode() for one in deliveries) == [group_id, healthy]
        record = await bus.groups.read(group_id)
        assert (record.state, record.reason) == ("failed", "payload_missing")
        assert (await bus.groups.read(healthy)).state == "scored"
        assert {letter["reason"] for letter in await bus.dead_letters.read()} == {"payload_missing"}
        assert await stream_length(bus, "completions") == 0
        assert not any(group_id in key for key in await stored_payloads(bus))

    drive(valkey.url, scenario)


def test_a_group_outlives_any_number_of_verifiers(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good", b"bad"])
        await bus.streams.consume("completions", "verifier-1", count=10, block_s=0)
        for death in range(1, 12):
            await bus.control_server.client.delete(bus.keys.heartbeat("verifier", f"verifier-{death}"))
            claimed = await bus.streams.claim_dead("completions", "verifier", f"verifier-{death + 1}", count=10)
            assert len(claimed) == 2
        await bus.control_server.client.delete(bus.keys.heartbeat("verifier", "verifier-12"))
        async with verifying(bus, make_spec()):
            await scored(bus, 1)
        assert [grade.correct for grade in (await bus.groups.read(group_id)).grades] == [True, False]

    drive(valkey.url, scenario)


def test_a_verifier_that_is_stopped_hands_back_what_it_has_not_graded(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        await bus.streams.consume("completions", "verifier-1", count=1, block_s=0)
        await write_group(bus, 0, [b"hang"] * 4, grader="misbehaving")
        async with verifying(bus, make_spec(grader_timeout_s=60)):
            await until(lambda: all_taken(bus))
        assert len(await bus.streams.consume("completions", "verifier-1", count=10, block_s=0)) == 4

    async def all_taken(bus: Bus) -> bool:
        found = await bus.control_server.client.xinfo_consumers(bus.keys.stream("completions"), "verifier")
        return sum(one["pending"] for one in found) == 4

    drive(valkey.url, scenario)


def test_a_service_that_is_away_for_a_while_costs_no_reward(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SERVICE_PAUSE_S", 0.1)

    def answer(number: int, body: Any) -> Answer:
        if number < 3:
            return Answer("away", status=503)
        return Answer({"scores": [1.0] * len(body["items"])})

    async def scenario(bus: Bus) -> None:
        with serving(answer) as service:
            graders = {"slow": {"type": "remote", "url": service.url, "retries": 0}}
            async with verifying(bus, make_spec(graders=graders)):
                group_id = await write_group(bus, 0, [b"good"] * 4, grader="slow")
                await scored(bus, 1)
        assert [grade.correct for grade in (await bus.groups.read(group_id)).grades] == [True] * 4

    drive(valkey.url, scenario)


def test_an_absent_service_holds_up_no_other_grader(valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many batches wait for it: here more than there are slots."""
    monkeypatch.setattr(worker, "_CONCURRENT_REMOTE_BATCHES", 2)
    monkeypatch.setattr(worker, "_BATCH", 4)

    async def scenario(bus: Bus) -> None:
        with serving(lambda number, body: Answer("away", status=503)) as service:
            graders = {"slow": {"type": "remote", "url": service.url, "retries": 0}}
            for number in range(12):
                await write_group(bus, number, [b"good"] * 4, grader="slow")
            async with verifying(bus, make_spec(graders=graders)):
                await write_group(bus, 12, [b"good"] * 4)
                (done,) = await scored(bus, 1)
            assert done.data == b"g0000000012"
            assert (await bus.groups.ledger())["generated"] == 12

    drive(valkey.url, scenario)


def test_a_service_that_stays_away_fails_its_groups_and_gives_no_reward(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SERVICE_PAUSE_S", 0.1)
    monkeypatch.setattr(worker, "SERVICE_PATIENCE_S", 0.5)

    async def scenario(bus: Bus) -> None:
        with serving(lambda number, body: Answer("away", status=503)) as service:
            graders = {"slow": {"type": "remote", "url": service.url, "retries": 0}}
            async with verifying(bus, make_spec(graders=graders)):
                group_id = await write_group(bus, 0, [b"good"] * 4, grader="slow")
                await scored(bus, 1)
                await until(lambda: nothing_waits(bus))
            record = await bus.groups.read(group_id)
            assert (record.state, record.reason, record.grades) == ("failed", "grader_unavailable", [])
            assert len(service.calls) > 1

    drive(valkey.url, scenario)


def test_completions_of_a_closed_group_leave_without_a_trace(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        group_id = await write_group(bus, 0, [b"good"] * 4)
        await bus.groups.close_open("drain", await bus.lease.acquire("orchestrator"))
        await write_group(bus, 1, [b"good", b"bad"])

        async with verifying(bus, make_spec()):
            await scored(bus, 1)
            await until(lambda: nothing_waits(bus))
        assert (await bus.groups.read(group_id)).state == "surplus"
        assert await bus.dead_letters.read() == []

    drive(valkey.url, scenario)
