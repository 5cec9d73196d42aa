"""The generator's worker against a real Valkey and a simulated engine: prompts, retries, refusals, claims."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from dapo.bus import Delivery
from dapo.bus.keys import PROMPTS
from dapo.bus.parts.streams import Streams
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.arrays import decode_ids, decode_logprobs
from dapo.data import open_dataset
from dapo.v1 import messages_pb2 as pb
from services.generator import membership, worker, writer
from tests.support.bus import read_alerts
from tests.support.data import write_lines
from tests.support.generator.kit import Learner, make_spec, make_task, running, until
from tests.support.generator.runs import (
    FIRST,
    GROUP_SIZE,
    NAME,
    Run,
    called,
    check_payloads,
    new_run,
    pending,
    serving,
    some_completions,
)
from tests.support.models import ALPHABET, char_tokenizer, save_model
from tests.support.simulator.engine import SimulatedServer, SimulatorOptions


def test_every_response_of_every_group_is_written_once(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "all", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(stream_interval=4, step_s=0.001))
            async with serving(run, spec, server) as learner:
                groups = await run.issue(["abc>"] * 60)
                await run.wait_count("generated", 60)
                completions = await run.completions(60 * GROUP_SIZE)
                assert {(c.group_id, c.index) for c in completions} == {
                    (group, index) for group in groups for index in range(GROUP_SIZE)
                }
                await check_payloads(run, completions)
                assert server.engine.calls["/generate"] == 60
                member = await until(idle(learner), "nothing running")
                assert member.generated_tokens == sum(c.response_tokens for c in completions)
                assert 0 < member.busy_s <= member.up_s
            assert await run.bus.weights.members() == []

    asyncio.run(scenario())


def test_a_stop_string_that_the_engine_missed_ends_the_response_all_the_same(redis_url: str, spec) -> None:
    """The simulated engine knows no stop strings: nothing beyond one is written, and no such response is truncated."""
    stopping = spec.model_copy(update={"sampling": spec.sampling.model_copy(update={"stop": ["b", "cd"]})})

    async def scenario() -> None:
        async with new_run(redis_url, "stop", stopping.model_dump_json()) as run:
            async with serving(run, stopping, SimulatedServer(SimulatorOptions(mean_tokens=20, step_s=0.001))):
                await run.issue(["abc>"] * 20)
                await run.wait_count("generated", 20)
                completions = await run.completions(20 * GROUP_SIZE)
            texts = [(text or b"").decode() for text in await run.bus.payloads.get([c.text_key for c in completions])]
            payloads = await run.bus.payloads.get([completion.payload_key for completion in completions])
        ended = 0
        for completion, text, data in zip(completions, texts, payloads, strict=True):
            payload = pb.CompletionPayload.FromString(data or b"")
            tokens = len(decode_ids(payload.response_ids))
            assert tokens == len(decode_logprobs(payload.logprobs)) == completion.response_tokens
            assert payload.spans[-1].end == tokens
            assert not any(stop in text[:-1] for stop in ("b", "cd"))
            if text.endswith(("b", "cd")):
                ended += 1
                assert completion.finish_reason == pb.FINISH_REASON_STOP
                assert len(text) == tokens
        assert ended > 20

    asyncio.run(scenario())


def idle(learner: Learner):
    async def condition() -> pb.Member | None:
        member = await learner.member()
        return member if member is not None and member.running == 0 and member.generated_tokens else None

    return condition


def test_prompts_are_left_alone_until_weights_are_known(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "unknown", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with running(run.bus, spec, NAME, server):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                await run.issue(["abc>"])
                await asyncio.sleep(1.5)
                assert server.engine.calls["/generate"] == 0
                await learner.announce(FIRST)
                await run.wait_count("generated", 1)

    asyncio.run(scenario())


def test_commands_to_a_predecessor_are_not_carried_out(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "predecessor", spec.model_dump_json()) as run:
            learner = Learner(run.bus, NAME)
            await learner.send(join=pb.JoinGroup(group_name="old", world_size=2, backend="gloo"))
            server = SimulatedServer()
            async with running(run.bus, spec, NAME, server):
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                assert server.engine.calls["/init_weights_update_group"] == 1

    asyncio.run(scenario())


def test_unusable_prompts_fail_their_groups_with_a_reason(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "unusable", spec.model_dump_json()) as run:
            async with serving(run, spec, SimulatedServer()):
                groups = await run.issue(["a" * 401, "", "abc>"])
                await run.wait_count("failed", 2)
                await run.wait_count("generated", 1)
            letters = {letter["group"]: letter for letter in await run.bus.dead_letters.read()}
            assert letters[groups[0]]["reason"] == "prompt_too_long"
            assert "401 tokens > data.max_prompt_tokens = 400" in letters[groups[0]]["detail"]
            assert letters[groups[1]]["reason"] == "prompt_empty"

    asyncio.run(scenario())


def test_a_prompt_is_rendered_with_the_arguments_that_its_row_brings(redis_url: str, tmp_path: Path) -> None:
    save_model(tmp_path, 0)
    tokenizer = char_tokenizer(ALPHABET)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}{{ tail if add_generation_prompt }}"
    tokenizer.save_pretrained(tmp_path)
    rows = write_lines(tmp_path / "d.jsonl", [
        {"prompt": [{"role": "user", "content": "abc"}], "answer": 1},
        {"prompt": [{"role": "user", "content": "abc"}, {"role": "assistant", "content": "de"}], "answer": 1},
    ])  # fmt: skip
    spec = make_spec(tmp_path, data={"path": str(rows), "chat_template_kwargs": {"tail": "xyz>"}})

    async def scenario() -> None:
        async with new_run(redis_url, "rendered", spec.model_dump_json()) as run:
            async with serving(run, spec, SimulatedServer()):
                tasks = [make_task(i, "", group_size=1) for i in range(2)]
                for task, row in zip(tasks, open_dataset(spec.data), strict=True):
                    task.prompt.CopyFrom(row.prompt)
                await run.bus.groups.issue(tasks, run.epoch)
                await run.wait_count("generated", 2)
                completions = sorted(await run.completions(2), key=lambda one: one.group_id)
            payloads = await run.bus.payloads.get([completion.payload_key for completion in completions])
            ids = [decode_ids(pb.CompletionPayload.FromString(data or b"").prompt_ids) for data in payloads]
            assert [tokenizer.decode(one) for one in ids] == ["abcxyz>", "abcde"]
            assert [completion.prompt_end for completion in completions] == ["abcxyz>", "abcde"]

    asyncio.run(scenario())


def test_a_prompt_waits_for_the_weights_of_its_issue(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "lagging", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with serving(run, spec, server) as learner:
                await run.issue(["abc>"], issued_version=2)
                await run.issue(["abc>"], first=1)
                await run.wait_count("generated", 1)
                await learner.announce(pb.Version(incarnation=1, step=1))
                await asyncio.sleep(0.5)
                assert server.engine.calls["/generate"] == 1
                await learner.announce(pb.Version(incarnation=1, step=2))
                await run.wait_count("generated", 2)
                completions = await run.completions(2 * GROUP_SIZE)
                assert {(c.group_id, c.version_min) for c in completions} == {("g0000000000", 2), ("g0000000001", 0)}

    asyncio.run(scenario())


def test_a_generator_that_is_left_behind_gives_its_prompts_to_others(
    redis_url: str, spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(membership, "_STEP_S", 0.2)

    async def scenario() -> None:
        async with new_run(redis_url, "behind", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with serving(run, spec, server) as learner:
                await run.issue(["abc>"] * 2, issued_version=2)
                await until(pending(run, 2), "both are taken", 20)
                await until(pending(run, 0), "both are handed back", 20)
                await asyncio.sleep(1.5)  # longer than a read of the stream takes
                taken = await run.take(2)
                assert [one.losses for one in taken] == [0, 0]
                for one in taken:
                    await run.bus.streams.hand_back("prompts", "generator-9", one, lost=False)
                await learner.announce(pb.Version(incarnation=1, step=2))
                await run.wait_count("generated", 2)

    asyncio.run(scenario())


def test_responses_of_unnamed_weights_are_made_again(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "base", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with serving(run, spec, server):
                server.engine.version = "base"
                await run.issue(["abc>"])
                await until(called(server, "/generate", 2), "a second try")
                server.engine.version = "1.0"
                await run.wait_count("generated", 1)
                await check_payloads(run, await run.completions(GROUP_SIZE))

    asyncio.run(scenario())


def test_prompts_are_taken_a_few_at_a_time(redis_url: str, spec, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that one generator does not take all while another, as free, is between two reads."""
    taken: list[int] = []
    consume = Streams.consume

    async def counted(streams: Streams, stream: str, *args: Any, **options: Any) -> list[Delivery]:
        found = await consume(streams, stream, *args, **options)
        if stream == PROMPTS:
            taken.append(len(found))
        return found

    monkeypatch.setattr(Streams, "consume", counted)

    async def scenario() -> None:
        async with new_run(redis_url, "few", spec.model_dump_json()) as run:
            await run.issue(["abc>"] * 40)
            async with serving(run, spec, SimulatedServer()):
                await run.wait_count("generated", 40)
        assert sum(taken) == 40
        assert max(taken) == worker._READ_LIMIT

    asyncio.run(scenario())


def test_a_full_server_is_told_of_and_waited_for(
    redis_url: str, spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_FULL_ALERT_S", 1.0)

    async def scenario(payload_url: str) -> None:
        async with (
            Redis.from_url(payload_url) as payloads,
            new_run(redis_url, "full", spec.model_dump_json(), payload_url) as run,
            running(run.bus, spec, NAME, SimulatedServer()),
        ):
            learner = Learner(run.bus, NAME)
            await learner.wait_state("ready", has_version=False)
            await learner.announce(FIRST)
            await payloads.config_set("maxmemory", 1)
            await run.issue(["abc>"])
            alert = await until(told(run), "an alert")
            assert (await run.bus.groups.ledger())["issued"] == 1
            await payloads.config_set("maxmemory", 1 << 26)
            assert alert["worker_id"] == NAME
            assert "completions wait" in alert["message"]
            await run.wait_count("generated", 1)

    with EmbeddedValkey(tmp_path, 64) as payloads:
        asyncio.run(scenario(payloads.url))


def told(run: Run):
    async def condition() -> dict | None:
        return next(iter(await read_alerts(run.bus)), None)

    return condition


def test_responses_of_a_closed_group_are_aborted_and_dropped(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "closed", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(step_s=0.02, mean_tokens=30))
            async with serving(run, spec, server) as learner:
                await run.issue(["abc>"] * 4)
                await until(some_completions(run), "the first completion")
                assert await run.bus.groups.close_open("drain", run.epoch) == 4
                await until(idle(learner), "nothing running")
                assert server.engine.calls["/abort_request"] > 0
                assert (await run.bus.groups.ledger())["surplus"] == 4

    asyncio.run(scenario())
