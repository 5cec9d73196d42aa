"""A run that gets more or fewer workers while it goes on, with a launcher without processes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.spec.load import load_spec
from dapo.spec.workloads import Workload
from services.orchestrator.launch.launcher import LaunchError, RunTarget
from tests.support.orchestrator.control import make_spec
from tests.support.orchestrator.launcher import FakeLauncher
from tests.support.orchestrator.stage import RUN, Stage, run_stage, services
from tests.support.waiting import eventually


class SlowLauncher(FakeLauncher):
    """Takes its time for a change of a run that is placed."""

    changing = 0

    async def apply(self, run: RunTarget, workloads: Sequence[Workload]) -> None:
        if self.applied:
            self.changing += 1
            await asyncio.sleep(0.5)
        await super().apply(run, workloads)


@contextlib.asynccontextmanager
async def training(stage: Stage) -> AsyncIterator[Bus]:
    """The run trains, slowly, until the block is left."""
    bus = await stage.bus()
    async with services(bus) as workers:
        workers.learn_s = 1.0
        learning = asyncio.create_task(workers.learn())
        await eventually(lambda: stage.states()[-1:] == ["running"])
        yield bus
        learning.cancel()
        await asyncio.wait({learning})
    await bus.close()


def test_a_run_that_ends_while_it_is_scaled_leaves_no_worker(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    launcher = SlowLauncher()
    refused: list[BaseException | None] = []

    async def play(stage: Stage) -> None:
        async with training(stage):
            scaling = [asyncio.create_task(stage.driver.scale({"verifier": number})) for number in (2, 3)]
            await eventually(lambda: launcher.changing)
            await stage.driver.stop()
            await asyncio.wait(scaling)
            refused.extend(task.exception() for task in scaling)

    run_stage(make_spec(tmp_path, staleness=1), tmp_path / "run", play, url=valkey.url, launcher=launcher)
    assert [type(error) for error in refused] == [type(None), LaunchError]
    assert launcher.stopped == [RUN]
    assert launcher.workers == {}


class FullLauncher(FakeLauncher):
    """Has room for two verifiers."""

    async def apply(self, run: RunTarget, workloads: Sequence[Workload]) -> None:
        if any(workload.name == "verifier" and workload.replicas > 2 for workload in workloads):
            raise LaunchError("no room")
        await super().apply(run, workloads)


def test_what_cannot_be_placed_is_not_kept(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    folder = tmp_path / "run"

    async def play(stage: Stage) -> None:
        async with training(stage) as bus:
            await stage.driver.scale({"verifier": 2})
            kept = (folder / "spec.yaml").read_text()
            with pytest.raises(LaunchError, match="no room"):
                await stage.driver.scale({"verifier": 3})
            assert (folder / "spec.yaml").read_text() == kept
            record = await bus.runs.read()
            assert record is not None
            assert json.loads(record["spec"])["resources"]["verifier"]["replicas"] == 2
            await stage.driver.scale({"generator": 2})
            await stage.driver.stop()

    run_stage(make_spec(tmp_path, staleness=1), folder, play, url=valkey.url, launcher=FullLauncher())
    resources = load_spec(folder / "spec.yaml").resources
    assert (resources.generator.replicas, resources.verifier.replicas) == (2, 2)


def test_of_two_changes_at_once_both_are_kept(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    folder, launcher = tmp_path / "run", SlowLauncher()

    async def play(stage: Stage) -> None:
        async with training(stage):
            await asyncio.gather(stage.driver.scale({"verifier": 2}), stage.driver.scale({"generator": 3}))
            await stage.driver.stop()

    run_stage(make_spec(tmp_path, staleness=1), folder, play, url=valkey.url, launcher=launcher)
    _, placed = launcher.applied[-1]
    assert {workload.name: workload.replicas for workload in placed} == {"generator": 3, "verifier": 2, "learner": 1}
    resources = load_spec(folder / "spec.yaml").resources
    assert (resources.generator.replicas, resources.verifier.replicas) == (3, 2)
