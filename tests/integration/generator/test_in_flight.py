"""What weight updates do to responses in flight (weight_sync.in_flight): real Valkey, simulated engine."""

import asyncio
from pathlib import Path

import pytest

from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from tests.support.generator.kit import make_spec, until
from tests.support.generator.runs import GROUP_SIZE, check_payloads, new_run, serving
from tests.support.generator.unfinished import (
    LONG,
    MOST,
    SECOND,
    none_kept,
    sampled,
)
from tests.support.simulator.engine import SimulatedServer


@pytest.fixture
def spec(model_path: Path) -> RunSpec:
    return make_spec(model_path, sampling={"group_size": GROUP_SIZE, "max_response_tokens": MOST})


@pytest.mark.parametrize("mode", ["continue", "abort", pytest.param("drain", marks=pytest.mark.slow)])
def test_what_a_weight_update_does_to_responses_in_flight(redis_url: str, spec: RunSpec, mode: str) -> None:
    weights = spec.weight_sync.model_copy(update={"in_flight": mode})
    chosen = spec.model_copy(update={"weight_sync": weights})

    async def scenario() -> None:
        async with new_run(redis_url, f"update-{mode}", chosen.model_dump_json()) as run:
            server = SimulatedServer(LONG)
            async with serving(run, chosen, server) as learner:
                await run.issue(["abc>"])
                await until(sampled(server.engine, 40), "40 tokens of each")
                await learner.announce(SECOND)
                # Issued after the update began, so it is taken once that is over.
                await run.issue(["ab>"], first=1, issued_version=1)
                await run.wait_count("generated", 2)
                # Before it leaves: what it stores just then stays until its group's payloads go.
                await until(none_kept(run), "what was kept is deleted")
                assert server.engine.sampled == 2 * GROUP_SIZE * MOST
                assert server.starts == 1
            completions = await run.completions(2 * GROUP_SIZE)
            await check_payloads(run, completions)
            in_flight = [one for one in completions if one.group_id.endswith("0")]
            steps = {tuple(span.version.step for span in one.spans) for one in in_flight}
            assert steps == ({(0,)} if mode == "drain" else {(0, 1)})
            salvaged = {one.salvaged_tokens > 0 for one in in_flight}
            assert salvaged == {mode == "abort"}
            later = [one for one in completions if one.group_id.endswith("1")]
            assert {(one.version_min, one.version_max) for one in later} == {(1, 1)}
            assert {one.attempt for one in completions} == ({0, 1} if mode == "abort" else {0})

    asyncio.run(scenario())


def test_a_drain_has_a_bound_and_then_responses_go_on(redis_url: str, spec: RunSpec) -> None:
    weights = spec.weight_sync.model_copy(update={"in_flight": "drain", "drain_s": 0.2})
    chosen = spec.model_copy(update={"weight_sync": weights})

    async def scenario() -> None:
        async with new_run(redis_url, "bounded", chosen.model_dump_json()) as run:
            server = SimulatedServer(LONG)
            async with serving(run, chosen, server) as learner:
                await run.issue(["abc>"])
                await until(sampled(server.engine, 8), "8 tokens of each")
                await learner.announce(SECOND)
                await run.wait_count("generated", 1)
            completions = await run.completions(GROUP_SIZE)
            assert {tuple(span.version.step for span in one.spans) for one in completions} == {(0, 1)}

    asyncio.run(scenario())


def test_responses_that_updates_keep_interrupting_go_on_and_their_group_does_not_fail(
    redis_url: str, spec: RunSpec
) -> None:
    """More updates than a delivery has tries: the prompt is handed back and its responses are taken up once more."""
    weights = spec.weight_sync.model_copy(update={"in_flight": "abort"})
    chosen = spec.model_copy(update={"weight_sync": weights})

    async def scenario() -> None:
        async with new_run(redis_url, "often", chosen.model_dump_json()) as run:
            server = SimulatedServer(LONG)
            async with serving(run, chosen, server) as learner:
                await run.issue(["abc>"])
                for step in range(1, 13):
                    asked = len(server.engine.requests)
                    await until(sampled(server.engine, 9), "9 tokens of each")
                    await learner.announce(pb.Version(incarnation=1, step=step))
                    await until(more(server, asked), "they go on")
                await run.wait_count("generated", 1)
                completions = await run.completions(GROUP_SIZE)
                await check_payloads(run, completions)
                assert server.engine.sampled == GROUP_SIZE * MOST
                assert {one.attempt >= 10 for one in completions} == {True}
                assert (await run.bus.groups.ledger())["failed"] == 0

    def more(server: SimulatedServer, asked: int):
        async def condition() -> bool:
            return len(server.engine.requests) > asked

        return condition

    asyncio.run(scenario())
