"""A generator that does nothing but evaluate keeps its weights while it has prompts: real Valkey, simulated engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dapo.bus import Bus
from dapo.bus.keys import EVALUATIONS
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.generator.tokens import PromptCodec
from services.generator.worker import Generator
from tests.support.generator.kit import Learner, make_spec, make_task, until
from tests.support.models import save_model
from tests.support.simulator.engine import SimulatedServer, SimulatorOptions

NAME = "generator-1"


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, 0)
    return make_spec(directory)


@asynccontextmanager
async def evaluating(folder: Path, spec: RunSpec, **options: float) -> AsyncIterator[tuple[Bus, int, Learner]]:
    """A bus, the orchestrator's epoch and the learner of a generator that evaluates."""
    with EmbeddedValkey(folder / "redis", 128) as valkey:
        bus = await Bus.connect(valkey.url, "pin")
        await bus.runs.create(spec.model_dump_json(), "", "")
        server = SimulatedServer(SimulatorOptions(**options))
        generator = Generator(bus, spec, NAME, server, PromptCodec(spec.model.path), evaluates=True)
        task = asyncio.create_task(generator.run())
        learner = Learner(bus, NAME)
        try:
            await learner.wait_state("ready", has_version=False)
            yield bus, await bus.lease.acquire("orchestrator"), learner
        finally:
            task.cancel()
            await asyncio.wait([task])
            await bus.close()


async def ask(bus: Bus, epoch: int, number: int, *, step: int, stream: str = EVALUATIONS) -> str:
    task = make_task(number, "abc>")
    task.group_id, task.evaluation, task.issued_version = f"e{number:010d}", "exam", step
    await bus.groups.issue([task], epoch, stream=stream)
    return task.group_id


async def versions(bus: Bus, count: int) -> set[tuple[int, int]]:
    """First and last version of the next `count` responses."""
    found: list[pb.Completion] = []
    async with asyncio.timeout(60):
        while len(found) < count:
            entries = await bus.streams.consume("completions", "verifier-0", count=100, block_s=0.5)
            found += [pb.Completion.FromString(entry.data) for entry in entries]
    return {(completion.version_min, completion.version_max) for completion in found}


def test_weights_are_kept_from_the_first_prompt_to_the_last(tmp_path: Path, spec: RunSpec) -> None:
    async def scenario() -> None:
        async with evaluating(tmp_path, spec, step_s=0.1, mean_tokens=20) as (bus, epoch, learner):
            await learner.announce(pb.Version(incarnation=1, step=3))
            await ask(bus, epoch, 0, step=3)
            await learner.wait_state("evaluating", has_version=True)
            await until(lambda: running(learner), "the prompt is generated from")
            update = pb.UpdateWeights(group_name="any", version=pb.Version(incarnation=1, step=4))
            refused = await learner.reply(await learner.send(update=update))
            assert refused.phase == "failed"
            assert "an evaluation goes on" in refused.error
            assert await versions(bus, 4) == {(3, 3)}
            member = await learner.wait_state("ready", has_version=True)
            assert member.evaluates

            await learner.announce(pb.Version(incarnation=1, step=7))
            await ask(bus, epoch, 1, step=7)
            assert await versions(bus, 4) == {(7, 7)}

    asyncio.run(scenario())


async def running(learner: Learner) -> bool:
    member = await learner.member()
    return member is not None and member.running > 0


def test_an_evaluation_of_newer_weights_waits_for_them(tmp_path: Path, spec: RunSpec) -> None:
    """Though those of the evaluation before are still kept when its prompts come."""

    async def scenario() -> None:
        async with evaluating(tmp_path, spec, step_s=0.01) as (bus, epoch, learner):
            await learner.announce(pb.Version(incarnation=1, step=3))
            await ask(bus, epoch, 0, step=3)
            assert await versions(bus, 4) == {(3, 3)}
            await ask(bus, epoch, 1, step=5)
            await learner.wait_state("ready", has_version=True)
            await learner.announce(pb.Version(incarnation=1, step=6))
            assert await versions(bus, 4) == {(6, 6)}

    asyncio.run(scenario())


def test_prompts_for_training_are_left_to_the_others(tmp_path: Path, spec: RunSpec) -> None:
    async def scenario() -> None:
        async with evaluating(tmp_path, spec) as (bus, epoch, learner):
            await learner.announce(pb.Version(incarnation=1, step=0))
            await bus.groups.issue([make_task(0, "abc>")], epoch)
            await ask(bus, epoch, 1, step=0)
            assert await versions(bus, 4) == {(0, 0)}
            assert (await bus.groups.ledger())["issued"] == 1

    asyncio.run(scenario())
