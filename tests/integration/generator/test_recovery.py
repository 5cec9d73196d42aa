"""What engines, learners and generators that crash, hang or are replaced cost: real Valkey, simulated engine."""

import asyncio
import signal
from pathlib import Path

import pytest

from dapo.bus import RETRIES
from dapo.v1 import messages_pb2 as pb
from services.generator import worker
from services.generator.engine import supervisor
from services.generator.engine.client import EngineClient, SamplingParams
from services.generator.engine.responses import EngineError, StreamedResponse
from tests.support.generator.kit import Learner, running, until
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
from tests.support.simulator.engine import SimulatedServer, SimulatorOptions
from tests.support.simulator.processes import start_worker


def test_an_engine_crash_costs_no_response(redis_url: str, spec) -> None:
    """Its replacement serves nothing until the learner sends weights again; then the missing responses are made."""

    async def scenario() -> None:
        async with new_run(redis_url, "crash", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(step_s=0.02, mean_tokens=30))
            async with serving(run, spec, server) as learner:
                await run.issue(["abc>"] * 8)
                await until(some_completions(run), "the first completion")
                await server.crash()
                await learner.wait_state("ready", has_version=False)
                assert server.starts == 2
                await learner.announce(pb.Version(incarnation=1, step=3))
                await run.wait_count("generated", 8)
                completions = await run.completions(8 * GROUP_SIZE)
                await check_payloads(run, completions)
                assert {c.attempt > 0 for c in completions} == {True, False}
                assert {c.version_max for c in completions} == {0, 3}

    asyncio.run(scenario())


def test_prompts_of_a_lost_engine_go_to_another_generator_at_once(redis_url: str, spec) -> None:
    """Its replacement takes far longer than the others need; what it had written by then stays."""

    async def scenario() -> None:
        async with new_run(redis_url, "lost", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(step_s=0.02, mean_tokens=30))
            async with serving(run, spec, server):
                stop_at_the_first_end(server)
                await run.issue(["abc>"] * 8)
                await until(some_completions(run), "the first completion")
                async with serving(run, spec, SimulatedServer(), "generator-1"):
                    server.options = SimulatorOptions(start_s=3600)
                    await server.crash()
                    await run.wait_count("generated", 8)
                completions = await run.completions(8 * GROUP_SIZE)
                await check_payloads(run, completions)
                assert {c.generator_id for c in completions} == {NAME, "generator-1"}
                assert all(c.attempt >= RETRIES for c in completions if c.generator_id == "generator-1")

    asyncio.run(scenario())


def test_prompts_that_wait_for_weights_leave_a_lost_engine_too(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "waiting", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with serving(run, spec, server):
                await run.issue(["abc>"] * 2, issued_version=5)
                await until(pending(run, 2), "both are taken")
                server.options = SimulatorOptions(start_s=3600)
                await server.crash()
                await until(pending(run, 0), "both are handed back")
                assert all(one.attempt >= 2 for one in await run.take(2))

    asyncio.run(scenario())


def test_a_generator_that_is_stopped_hands_its_prompts_back(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "stopped", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(step_s=0.02, mean_tokens=1000))
            async with serving(run, spec, server):
                await run.issue(["abc>"] * 8)
                await until(pending(run, 8), "all are taken")
            assert await run.consumers() == []
            taken = await run.take(8)
            assert {(one.attempt, one.losses) for one in taken} == {(2, 0)}

    asyncio.run(scenario())


def test_a_prompt_that_ends_every_engine_fails_its_group_at_last(
    redis_url: str, spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_MAX_LOSSES", 2)

    async def scenario() -> None:
        async with new_run(redis_url, "fatal", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(step_s=60))
            async with serving(run, spec, server) as learner:
                (group,) = await run.issue(["abc>"])
                for start in (1, 2):
                    await until(called(server, "/generate", 1), "the prompt is in the engine")
                    await server.crash()
                    await learner.wait_state("ready", has_version=False)
                    assert server.starts == start + 1
                    await learner.announce(FIRST)
                await run.wait_count("failed", 1)
            (letter,) = await run.bus.dead_letters.read()
            assert (letter["group"], letter["reason"]) == (group, "generation_failed")
            assert "2 times in a row" in letter["detail"]

    asyncio.run(scenario())


def test_what_the_dead_leave_behind_is_swept(redis_url: str, spec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_SWEEP_S", 0.1)
    monkeypatch.setattr(worker, "_CLAIM_S", 0.1)
    monkeypatch.setattr(worker, "_FORGET_S", 0.2)

    async def scenario() -> None:
        async with new_run(redis_url, "swept", spec.model_dump_json()) as run:
            await run.issue(["abc>"])
            await run.take(1, "generator-1")
            await run.bus.weights.publish_member(pb.Member(generator_id="generator-1", state="ready"))
            await run.die("generator-1")
            async with serving(run, spec, SimulatedServer()):
                await run.wait_count("generated", 1)
                await until(alone(run), "no trace of the dead one")

    def alone(run: Run):
        async def condition() -> bool:
            records = await run.bus.control_server.client.hkeys(run.bus.keys.members)
            consumers = [one["name"].decode().split("/")[0] for one in await run.consumers()]
            return records == [NAME.encode()] and consumers == [NAME]

        return condition

    asyncio.run(scenario())


def test_all_that_a_dead_generator_held_is_taken_over_in_one_go(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "heir", spec.model_dump_json()) as run:
            await run.issue(["abc>"] * 40)
            assert len(await run.take(40, "generator-1")) == 40
            await run.die("generator-1")
            server = SimulatedServer(SimulatorOptions(step_s=60))
            async with serving(run, spec, server):
                await until(called(server, "/generate", 1), "the first is generated from")
                assert await pending(run, 40, f"{NAME}/")()

    asyncio.run(scenario())


def test_a_route_that_hangs_costs_the_engine_and_the_member_comes_back(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "hang", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with running(run.bus, spec, NAME, server):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                server.engine.hang.add("/init_weights_update_group")
                join = pb.JoinGroup(group_name="one", world_size=2, backend="gloo")
                failed = await learner.reply(await learner.send(deadline_s=0.3, join=join))
                assert failed.phase == "failed"
                assert "0.3" in failed.error
                await until(restarted(server), "second start")
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)

    asyncio.run(scenario())


def test_calls_of_a_replaced_engine_are_typed_errors() -> None:
    async def scenario() -> None:
        server = SimulatedServer()
        engine = EngineClient(await server.start())
        await engine.close()
        with pytest.raises(EngineError, match="replaced"):
            await engine.pause()
        with pytest.raises(EngineError, match="replaced"):
            await anext(engine.generate([StreamedResponse("r")], [1], SamplingParams(1.0, 8, ())))
        assert not await engine.healthy(timeout_s=1.0)
        await server.kill()

    asyncio.run(scenario())


def test_an_engine_that_freezes_is_replaced(redis_url: str, spec, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_SILENCE_S", 0.5), ("_ANSWER_S", 0.5), ("_POLL_S", 0.05)):
        monkeypatch.setattr(supervisor, name, seconds)

    async def scenario() -> None:
        async with new_run(redis_url, "frozen", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(step_s=0.02, mean_tokens=30))
            async with serving(run, spec, server) as learner:
                await run.issue(["abc>"] * 4)
                await until(some_completions(run), "the first completion")
                server.engine.frozen = True
                await until(restarted(server), "second start")
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                await run.wait_count("generated", 4)

    asyncio.run(scenario())


def test_an_engine_that_is_slow_and_well_is_kept(redis_url: str, spec, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("_SILENCE_S", 0.2), ("_ANSWER_S", 5.0), ("_POLL_S", 0.05)):
        monkeypatch.setattr(supervisor, name, seconds)

    async def scenario() -> None:
        async with new_run(redis_url, "slow", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(step_s=0.4, mean_tokens=3))
            async with serving(run, spec, server):
                await run.issue(["abc>"])
                await run.wait_count("generated", 1)
                assert server.engine.calls["/health"] > 1
                assert server.starts == 1

    asyncio.run(scenario())


def stop_at_the_first_end(server: SimulatedServer) -> None:
    """Freezes the engine in the step in which the first response ends, so that others are left unfinished."""
    engine = server.engine

    def stop(_: int) -> None:
        engine.frozen = engine.frozen or any(one.done == len(one.ids) for one in engine.requests.values())

    engine.tell_sampled = stop


def restarted(server: SimulatedServer):
    async def condition() -> bool:
        return server.starts == 2

    return condition


def test_a_replaced_learner_is_refused_and_harms_nothing(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "replaced", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with running(run.bus, spec, NAME, server):
                old, new = Learner(run.bus, NAME, 1), Learner(run.bus, NAME, 2)
                await old.wait_state("ready", has_version=False)
                await old.announce(FIRST)
                await new.announce(pb.Version(incarnation=2, step=0))
                before = dict(server.engine.calls)
                for command in (
                    {"join": pb.JoinGroup(group_name="late", world_size=2, backend="gloo")},
                    {"update": pb.UpdateWeights(group_name="late", version=FIRST)},
                    {"leave": pb.LeaveGroup(group_name="late")},
                ):
                    refused = await old.reply(await old.send(**command))
                    assert refused.phase == "failed"
                    assert "incarnation 1 was replaced by 2" in refused.error
                assert dict(server.engine.calls) == before
                member = await new.wait_state("ready", has_version=True)
                assert member.version.incarnation == 2
                await run.issue(["abc>"])
                await run.wait_count("generated", 1)
                assert server.starts == 1

    asyncio.run(scenario())


def test_a_new_generator_knows_of_the_newest_learner(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "knows", spec.model_dump_json()) as run:
            epoch = await run.bus.lease.acquire("learner")
            await run.bus.weights.publish_version(pb.Version(incarnation=7, step=3), epoch)
            async with running(run.bus, spec, NAME, SimulatedServer()):
                old = Learner(run.bus, NAME, 6)
                await old.wait_state("ready", has_version=False)
                join = pb.JoinGroup(group_name="late", world_size=2, backend="gloo")
                assert "replaced by 7" in (await old.reply(await old.send(join=join))).error

    asyncio.run(scenario())


def test_a_killed_workers_group_is_finished_by_another(redis_url: str, spec, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "killed", spec.model_dump_json()) as run:
            victim = await start_worker(redis_url, "killed", "generator-1", tmp_path)
            learner = Learner(run.bus, "generator-1")
            await learner.wait_state("ready", has_version=False)
            await learner.announce(FIRST)
            await run.issue(["abc>"] * 6)
            await until(some_completions(run), "the first completion")
            victim.send_signal(signal.SIGKILL)
            await victim.wait()
            assert (await run.bus.groups.ledger())["issued"] > 0
            async with running(run.bus, spec, "generator-2", SimulatedServer()):
                successor = Learner(run.bus, "generator-2")
                await successor.wait_state("ready", has_version=False)
                await successor.announce(FIRST)
                await run.wait_count("generated", 6)
                completions = await run.completions(6 * GROUP_SIZE)
                assert len({(c.group_id, c.index) for c in completions}) == 6 * GROUP_SIZE
                assert {c.generator_id for c in completions} == {"generator-1", "generator-2"}
                await check_payloads(run, completions)

    asyncio.run(scenario())
