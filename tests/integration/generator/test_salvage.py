"""Unfinished responses outlive engines and generators: real Valkey, simulated engine."""

import asyncio
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from dapo.bus import BusFull
from dapo.bus.parts.payloads import Payloads
from dapo.contracts.arrays import decode_ids
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.generator.engine import supervisor
from services.generator.jobs import request_id
from services.generator.salvage import SAVED_TOKENS
from tests.support.generator.kit import Learner, make_spec, until
from tests.support.generator.runs import FIRST, GROUP_SIZE, check_payloads, new_run, pending, serving
from tests.support.generator.unfinished import (
    LONG,
    MOST,
    SECOND,
    check_joined,
    none_kept,
    partials,
    salvage_told,
    sampled,
)
from tests.support.simulator.engine import SimulatedServer
from tests.support.simulator.processes import start_worker
from tests.support.simulator.responses import SimulatorOptions


@pytest.fixture
def spec(model_path: Path) -> RunSpec:
    return make_spec(model_path, sampling={"group_size": GROUP_SIZE, "max_response_tokens": MOST})


@pytest.mark.parametrize("fault", ["dies", "hangs"])
def test_a_lost_engines_responses_go_on_elsewhere_from_the_tokens_they_have(
    redis_url: str, spec: RunSpec, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    for name, seconds in (("_SILENCE_S", 0.5), ("_ANSWER_S", 0.5), ("_POLL_S", 0.05)):
        monkeypatch.setattr(supervisor, name, seconds)

    async def scenario() -> None:
        async with new_run(redis_url, f"salvaged-{fault}", spec.model_dump_json()) as run:
            dying, heir = SimulatedServer(LONG), SimulatedServer(LONG)
            async with serving(run, spec, dying):
                await run.issue(["abc>"])
                await until(sampled(dying.engine, 60), "60 tokens of each")
                before = dying.engine
                dying.options = SimulatorOptions(start_s=3600)
                before.frozen = fault == "hangs"
                if fault == "dies":
                    await dying.crash()
                async with serving(run, spec, heir, "generator-1"):
                    await run.wait_count("generated", 1)
                    # Before it leaves: what it stores just then stays until its group's payloads go.
                    await until(none_kept(run), "what was kept is deleted")
                completions = await run.completions(GROUP_SIZE)
                await check_payloads(run, completions)
                kept = await check_joined(run, completions, before)
                assert kept >= GROUP_SIZE * 60
                # Nothing is sampled twice: the second engine makes the rest, and is told what there is.
                assert heir.engine.sampled == GROUP_SIZE * MOST - kept
                for rid, asked in heir.engine.inputs.items():
                    index = int(rid.split("-")[1])
                    (one,) = [c for c in completions if c.index == index]
                    assert len(asked) == one.prompt_tokens + one.salvaged_tokens
                assert {c.finish_reason for c in completions} == {pb.FINISH_REASON_LENGTH}
                assert {c.response_tokens for c in completions} == {MOST}
                told = await until(salvage_told(run), "it is told")
                assert f"{GROUP_SIZE} unfinished responses" in told
                assert f"the {kept} tokens" in told

    asyncio.run(scenario())


def test_a_generator_that_is_stopped_leaves_what_its_responses_have(redis_url: str, spec: RunSpec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "left", spec.model_dump_json()) as run:
            leaving, heir = SimulatedServer(LONG), SimulatedServer(LONG)
            async with serving(run, spec, leaving):
                await run.issue(["abc>", "ab>"])
                await until(pending(run, 2), "both are taken")
                await until(sampled(leaving.engine, 40), "40 tokens of each")
                before = leaving.engine
            assert len(await partials(run)) == 2 * GROUP_SIZE
            assert await run.bus.payloads.used_bytes() > 2 * GROUP_SIZE * 40 * 8
            async with serving(run, spec, heir, "generator-1"):
                await run.wait_count("generated", 2)
                # Before it leaves: what it stores just then stays until its group's payloads go.
                await until(none_kept(run), "what was kept is deleted")
            completions = await run.completions(2 * GROUP_SIZE)
            await check_payloads(run, completions)
            kept = await check_joined(run, completions, before)
            assert heir.engine.sampled == 2 * GROUP_SIZE * MOST - kept

    asyncio.run(scenario())


def test_a_generator_that_is_killed_has_left_most_of_what_its_long_responses_had(
    redis_url: str, spec: RunSpec, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "killed", spec.model_dump_json()) as run:
            options = {"step_s": 0.02, "mean_tokens": 100_000.0, "stream_interval": 4}
            victim = await start_worker(redis_url, "killed", "generator-1", tmp_path, **options)
            learner = Learner(run.bus, "generator-1")
            await learner.wait_state("ready", has_version=False)
            await learner.announce(FIRST)
            [group_id] = await run.issue(["abc>"])
            keys = [run.bus.payloads.partial_key(group_id, index) for index in range(GROUP_SIZE)]

            async def grown() -> list[int] | None:
                blobs = await run.bus.payloads.get(keys)
                kept = [len(decode_ids(pb.CompletionPayload.FromString(blob or b"").response_ids)) for blob in blobs]
                return kept if min(kept) >= 2 * SAVED_TOKENS else None

            await until(grown, "each is saved, and once more when it has grown")
            victim.send_signal(signal.SIGKILL)
            await victim.wait()
            kept = await grown() or []
            heir = SimulatedServer(LONG)
            async with serving(run, spec, heir, "generator-2"):
                await run.wait_count("generated", 1)
                # Before it leaves: what it stores just then stays until its group's payloads go.
                await until(none_kept(run), "what was kept is deleted")
            completions = await run.completions(GROUP_SIZE)
            await check_payloads(run, completions)
            assert {c.index: c.salvaged_tokens for c in completions} == dict(enumerate(kept))
            assert heir.engine.sampled == GROUP_SIZE * MOST - sum(kept)
            assert await run.bus.payloads.used_bytes() < GROUP_SIZE * (MOST + 10) * 20

    asyncio.run(scenario())


def test_tokens_of_both_versions_are_salvaged_where_the_engine_tells_them_and_none_that_it_does_not(
    redis_url: str, spec: RunSpec
) -> None:
    """An update comes in the middle of the responses, then the engine dies."""

    async def scenario(name: str, tells: bool) -> list[pb.Completion]:
        async with new_run(redis_url, name, spec.model_dump_json()) as run:
            options = SimulatorOptions(step_s=0.005, mean_tokens=100_000, stream_interval=4, tells_spans=tells)
            server = SimulatedServer(options)
            async with serving(run, spec, server) as learner:
                await run.issue(["abc>"])
                await until(sampled(server.engine, 40), "40 tokens of each")
                await learner.announce(SECOND)
                before = server.engine
                await until(sampled(before, 80), "80 tokens of each")
                await server.crash()
                await learner.wait_state("ready", has_version=False)
                await learner.announce(pb.Version(incarnation=1, step=2))
                await run.wait_count("generated", 1)
                completions = await run.completions(GROUP_SIZE)
                await check_payloads(run, completions)
                if tells:
                    await check_joined(run, completions, before)
                    for completion in completions:
                        spans = before.requests[request_id(completion.group_id, completion.index, 0)].spans
                        assert completion.spans[0].end == spans[0]["end"]
                return completions

    told = asyncio.run(scenario("told", True))
    assert all([span.version.step for span in one.spans] == [0, 1, 2] for one in told)
    assert all(one.spans[1].end == one.salvaged_tokens >= 80 for one in told)
    silent = asyncio.run(scenario("silent", False))
    assert all([span.version.step for span in one.spans] == [2] for one in silent)
    assert {one.salvaged_tokens for one in silent} == {0}


def test_what_was_kept_of_a_closed_group_is_swept_with_it(redis_url: str, spec: RunSpec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "closed", spec.model_dump_json()) as run:
            server = SimulatedServer(LONG)
            async with serving(run, spec, server):
                groups = await run.issue(["abc>", "ab>"])
                await until(pending(run, 2), "both are taken")
                await until(sampled(server.engine, 40), "40 tokens of each")
                await run.bus.groups.close(groups[:1], "over", run.epoch)
            assert len(await partials(run)) == GROUP_SIZE
            await run.bus.groups.close(groups[1:], "over", run.epoch)
            await until(none_kept(run), "what was kept is deleted")
            assert await run.bus.payloads.used_bytes() == 0

    asyncio.run(scenario())


def test_a_full_redis_keeps_nothing_and_the_responses_are_sampled_again(
    redis_url: str, spec: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    put = Payloads.put

    async def full(self: Payloads, items: Mapping[str, bytes]) -> None:
        if any(key.endswith(":partial") for key in items):
            raise BusFull("OOM")
        await put(self, items)

    monkeypatch.setattr(Payloads, "put", full)

    async def scenario() -> None:
        async with new_run(redis_url, "full", spec.model_dump_json()) as run:
            server = SimulatedServer(LONG)
            async with serving(run, spec, server) as learner:
                await run.issue(["abc>"])
                await until(sampled(server.engine, 16), "16 tokens of each")
                await server.crash()
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                await run.wait_count("generated", 1)
                completions = await run.completions(GROUP_SIZE)
                await check_payloads(run, completions)
                assert {one.salvaged_tokens for one in completions} == {0}
                assert not await salvage_told(run)()

    asyncio.run(scenario())


def test_a_prompt_that_lost_three_engines_in_a_row_begins_anew(redis_url: str, spec: RunSpec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "anew", spec.model_dump_json()) as run:
            server = SimulatedServer(LONG)
            async with serving(run, spec, server) as learner:
                await run.issue(["abc>"])
                for lost in range(3):
                    await until(sampled(server.engine, 16), "16 tokens of each")
                    assert {len(asked) > 20 for asked in server.engine.inputs.values()} == {lost > 0}
                    await server.crash()
                    await learner.wait_state("ready", has_version=False)
                    await learner.announce(FIRST)
                await run.wait_count("generated", 1)
                completions = await run.completions(GROUP_SIZE)
                assert {one.salvaged_tokens for one in completions} == {0}

    asyncio.run(scenario())


def test_an_evaluation_that_keeps_its_weights_goes_on_with_the_same_ones_only(redis_url: str, spec: RunSpec) -> None:
    """A response is never of two versions where a generator does nothing but evaluate."""

    async def scenario(name: str, version: pb.Version) -> list[pb.Completion]:
        async with new_run(redis_url, name, spec.model_dump_json()) as run:
            server = SimulatedServer(LONG)
            async with serving(run, spec, server, evaluates=True) as learner:
                task = pb.PromptTask(
                    group_id="e0000000000", row_id="0", prompt=pb.Prompt(text="abc>"), group_size=GROUP_SIZE,
                    evaluation="exam",
                )  # fmt: skip
                await run.bus.groups.issue([task], run.epoch, stream="evaluations")
                await until(sampled(server.engine, 40), "40 tokens of each")
                await server.crash()
                await learner.wait_state("ready", has_version=False)
                await learner.announce(version)
                await run.wait_count("generated", 1)
                return await run.completions(GROUP_SIZE)

    same, other = asyncio.run(scenario("exam-same", FIRST)), asyncio.run(scenario("exam-other", SECOND))
    assert all(one.salvaged_tokens >= 40 for one in same)
    assert {one.salvaged_tokens for one in other} == {0}
    assert {(one.version_min, one.version_max) for one in (*same, *other)} == {(0, 0), (1, 1)}
