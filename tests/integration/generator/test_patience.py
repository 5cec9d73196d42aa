"""Engines that do not start again, commands that come too late, updates that pause: real Valkey, simulated engine."""

import asyncio
import signal
from pathlib import Path

import pytest

from dapo.errors import first_leaf
from dapo.v1 import messages_pb2 as pb
from services.generator.engine import supervisor
from services.generator.engine.client import EngineEndpoint
from services.generator.engine.server import ServerError
from services.generator.tokens import PromptCodec
from services.generator.worker import Generator
from tests.support.bus import read_alerts
from tests.support.generator.kit import Learner, running, until
from tests.support.generator.runs import FIRST, NAME, called, new_run, serving
from tests.support.simulator.engine import SimulatedServer, SimulatorOptions
from tests.support.simulator.processes import start_worker

JOIN = pb.JoinGroup(group_name="late", world_size=2, backend="gloo")


class BrokenServer(SimulatedServer):
    """Refuses the starts whose numbers, from 1, are in `refused`."""

    def __init__(self, refused: range) -> None:
        super().__init__()
        self.refused = refused
        self.tries = 0

    async def start(self) -> EngineEndpoint:
        self.tries += 1
        if self.tries in self.refused:
            raise ServerError("SGLang did not start: it exited with code 1; sglang.log ends:\nout of memory")
        return await super().start()


def test_the_first_engine_has_one_try(redis_url: str, spec) -> None:
    async def scenario() -> None:
        server = BrokenServer(range(1, 100))
        async with new_run(redis_url, "first", spec.model_dump_json()) as run:
            with pytest.raises(ExceptionGroup) as caught:
                await Generator(run.bus, spec, NAME, server, PromptCodec(spec.model.path)).run()
            assert "out of memory" in str(first_leaf(caught.value))
            assert server.tries == 1

    asyncio.run(scenario())


def test_an_engine_that_was_lost_is_tried_again_with_pauses(
    redis_url: str, spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_START_PAUSE_S", 0.01)

    async def scenario() -> None:
        server = BrokenServer(range(2, 6))
        async with new_run(redis_url, "again", spec.model_dump_json()) as run:
            async with serving(run, spec, server) as learner:
                await server.crash()
                await learner.wait_state("ready", has_version=False)
                assert server.tries == 6
                await learner.announce(FIRST)
                await run.issue(["abc>"])
                await run.wait_count("generated", 1)
            (alert,) = await read_alerts(run.bus)
            assert (alert["kind"], alert["worker_id"], alert["pause_s"]) == ("engine_not_started", NAME, 0.01)
            assert "exited with code 1; sglang.log. It is tried 4 more times" in alert["message"]

    asyncio.run(scenario())


def test_an_engine_that_is_ready_counts_as_another_one_already(
    redis_url: str, spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The learner may have it join as soon as it is told, and a group belongs to the engine that joined it."""

    async def scenario() -> None:
        server = SimulatedServer()
        async with (
            new_run(redis_url, "counted", spec.model_dump_json()) as run,
            running(run.bus, spec, NAME, server) as generator,
        ):
            await Learner(run.bus, NAME).wait_state("ready", has_version=False)
            set_state = generator.membership.set_state
            told: list[tuple[str, int]] = []

            async def listen(state: str) -> None:
                told.append((state, generator.supervisor.replacements))
                await set_state(state)

            async def heard() -> bool:
                return bool(told)

            monkeypatch.setattr(generator.membership, "set_state", listen)
            await server.crash()
            await until(heard, "the new engine is ready", 20)
            assert told == [("ready", 1)]

    asyncio.run(scenario())


def test_an_engine_that_never_starts_again_ends_its_generator(
    redis_url: str, spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_START_PAUSE_S", 0.01)

    async def scenario() -> None:
        server = BrokenServer(range(2, 100))
        async with new_run(redis_url, "never", spec.model_dump_json()) as run:
            generator = asyncio.create_task(Generator(run.bus, spec, NAME, server, PromptCodec(spec.model.path)).run())
            await Learner(run.bus, NAME).wait_state("ready", has_version=False)
            await server.crash()
            with pytest.raises(ExceptionGroup) as caught:
                await generator
            assert "did not start 5 times in a row" in str(first_leaf(caught.value))
            assert "out of memory" in str(first_leaf(caught.value))
            assert len(await read_alerts(run.bus)) == 1

    asyncio.run(scenario())


def test_a_command_that_is_read_after_its_deadline_is_refused(redis_url: str, spec, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "expired", spec.model_dump_json()) as run:
            worker = await start_worker(redis_url, "expired", NAME, tmp_path)
            try:
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                await learner.announce(FIRST)
                worker.send_signal(signal.SIGSTOP)
                serials = [
                    await learner.send(deadline_s=0.5, join=JOIN),
                    await learner.send(deadline_s=0.5, update=pb.UpdateWeights(group_name="late", version=FIRST)),
                    await learner.send(deadline_s=0.5, leave=pb.LeaveGroup(group_name="late")),
                ]
                await asyncio.sleep(1.0)
                worker.send_signal(signal.SIGCONT)
                for serial in serials:
                    refused = await learner.reply(serial)
                    assert (refused.phase, refused.error[:16]) == ("failed", "expired: read 1.")
                # Its engine was not touched and serves on; what is sent now is carried out.
                await learner.wait_state("ready", has_version=True)
                await learner.announce(pb.Version(incarnation=1, step=1))
            finally:
                worker.kill()
                await worker.wait()

    asyncio.run(scenario())


def test_an_update_may_take_longer_than_its_deadline_while_it_goes_on(redis_url: str, spec) -> None:
    """The learner counts the time that this generator needs; a bucket may wait for another generator."""

    async def scenario() -> None:
        async with new_run(redis_url, "slow-buckets", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(bucket_s=0.5))
            async with running(run.bus, spec, NAME, server):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                assert (await learner.reply(await learner.send(join=JOIN))).phase == "done"
                bucket = pb.WeightBucket(tensors=[pb.TensorSpec(name="weight", dtype="float32", shape=[1])])
                update = pb.UpdateWeights(group_name="late", version=FIRST, buckets=[bucket] * 6)
                serial = await learner.send(deadline_s=1.0, update=update)
                assert [(await learner.reply(serial)).phase for _ in range(2)] == ["ready", "done"]
                assert server.starts == 1

    asyncio.run(scenario())


def test_what_buckets_hold_is_said_once_in_a_group(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "told-once", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with running(run.bus, spec, NAME, server):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                bucket = pb.WeightBucket(tensors=[pb.TensorSpec(name="weight", dtype="float32", shape=[1])])
                described = pb.UpdateWeights(group_name="late", version=FIRST, buckets=[bucket] * 3)
                bare = pb.UpdateWeights(group_name="late", version=pb.Version(incarnation=1, step=1))
                for _ in range(2):
                    assert (await learner.reply(await learner.send(join=JOIN))).phase == "done"
                    refused = await learner.reply(await learner.send(update=bare))
                    assert (refused.phase, "has no buckets" in refused.error) == ("failed", True)
                    for update in (described, bare, bare):
                        serial = await learner.send(update=update)
                        assert [(await learner.reply(serial)).phase for _ in range(2)] == ["ready", "done"]
                assert server.engine.calls["/update_weights_from_distributed"] == 2 * 3 * 3
                assert (await learner.wait_state("ready", has_version=True)).version.step == 1
                assert server.starts == 1

    asyncio.run(scenario())


def test_a_request_that_fails_during_an_update_does_not_cost_the_engine(redis_url: str, spec) -> None:
    """Though a paused engine passes no health check."""

    async def scenario() -> None:
        async with new_run(redis_url, "amid-update", spec.model_dump_json()) as run:
            server = SimulatedServer(SimulatorOptions(bucket_s=0.5))
            async with serving(run, spec, server) as learner:
                assert (await learner.reply(await learner.send(join=JOIN))).phase == "done"
                bucket = pb.WeightBucket(tensors=[pb.TensorSpec(name="weight", dtype="float32", shape=[1])])
                version = pb.Version(incarnation=1, step=1)
                update = pb.UpdateWeights(group_name="late", version=version, buckets=[bucket] * 8)
                serial = await learner.send(update=update)
                assert (await learner.reply(serial)).phase == "ready"
                server.engine.fail["/generate"] = 1
                await run.issue(["abc>"])
                await until(called(server, "/generate", 2), "the second try")
                assert (await learner.reply(serial)).phase == "done"
                await run.wait_count("generated", 1)
                assert server.starts == 1

    asyncio.run(scenario())


def test_an_engine_that_fails_a_request_has_a_minute_to_show_that_it_is_well(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "doubted", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with serving(run, spec, server):
                server.engine.fail["/generate"] = 1
                server.engine._paused = True
                await run.issue(["abc>"])
                await until(called(server, "/health", 2), "two health checks")
                server.engine._paused = False
                await run.wait_count("generated", 1)
                assert server.starts == 1

    asyncio.run(scenario())


def test_a_bucket_that_does_not_come_costs_the_engine(redis_url: str, spec) -> None:
    async def scenario() -> None:
        async with new_run(redis_url, "no-bucket", spec.model_dump_json()) as run:
            server = SimulatedServer()
            async with running(run.bus, spec, NAME, server):
                learner = Learner(run.bus, NAME)
                await learner.wait_state("ready", has_version=False)
                assert (await learner.reply(await learner.send(join=JOIN))).phase == "done"
                server.engine.hang.add("/update_weights_from_distributed")
                bucket = pb.WeightBucket(tensors=[pb.TensorSpec(name="weight", dtype="float32", shape=[1])])
                update = pb.UpdateWeights(group_name="late", version=FIRST, buckets=[bucket])
                serial = await learner.send(deadline_s=0.5, update=update)
                assert (await learner.reply(serial)).phase == "ready"
                failed = await learner.reply(serial)
                assert failed.phase == "failed"
                assert "/update_weights_from_distributed: no answer: timed out after 1 s" in failed.error
                await learner.wait_state("ready", has_version=False)
                assert server.starts == 2

    asyncio.run(scenario())
