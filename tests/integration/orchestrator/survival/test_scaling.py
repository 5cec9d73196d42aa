"""A run that gets more or fewer workers while it goes on, with a launcher without processes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.events import Event, ServiceChanged
from dapo.spec.load import load_spec
from dapo.spec.workloads import Workload
from services.orchestrator.control.scaling import Scale
from services.orchestrator.launch.launcher import LaunchError, RunTarget
from services.orchestrator.runs import monitor
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
            scaling = [asyncio.create_task(stage.driver.scale(Scale({"verifier": number}))) for number in (2, 3)]
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
            await stage.driver.scale(Scale({"verifier": 2}))
            kept = (folder / "spec.yaml").read_text()
            with pytest.raises(LaunchError, match="no room"):
                await stage.driver.scale(Scale({"verifier": 3}))
            assert (folder / "spec.yaml").read_text() == kept
            record = await bus.runs.read()
            assert record is not None
            assert json.loads(record["spec"])["resources"]["verifier"]["replicas"] == 2
            await stage.driver.scale(Scale({"generator": 2}))
            await stage.driver.stop()

    run_stage(make_spec(tmp_path, staleness=1), folder, play, url=valkey.url, launcher=FullLauncher())
    resources = load_spec(folder / "spec.yaml").resources
    assert (resources.generator.replicas, resources.verifier.replicas) == (2, 2)


def test_of_two_changes_at_once_both_are_kept(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    folder, launcher = tmp_path / "run", SlowLauncher()

    async def play(stage: Stage) -> None:
        async with training(stage):
            await asyncio.gather(
                stage.driver.scale(Scale({"verifier": 2})), stage.driver.scale(Scale({"generator": 3}))
            )
            await stage.driver.stop()

    run_stage(make_spec(tmp_path, staleness=1), folder, play, url=valkey.url, launcher=launcher)
    _, placed = launcher.applied[-1]
    assert {workload.name: workload.replicas for workload in placed} == {"generator": 3, "verifier": 2, "learner": 1}
    resources = load_spec(folder / "spec.yaml").resources
    assert (resources.generator.replicas, resources.verifier.replicas) == (3, 2)


def test_a_worker_that_was_silent_left_and_came_back_is_a_new_one(
    valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "HEARTBEAT_TTL_S", 0.5)

    async def play(stage: Stage) -> None:
        async with training(stage) as bus:
            await stage.driver.scale(Scale({"verifier": 2}))
            await bus.registry.beat("verifier", "verifier-1", ttl_s=3.0)
            await eventually(stage.alerts)
            await stage.driver.scale(Scale({"verifier": 1}))
            await stage.driver.scale(Scale({"verifier": 2}))
            await asyncio.sleep(3)
            await stage.driver.stop()

    resources = {"restarts": {"pause_s": 0.1, "silence_s": 2.0}}
    spec = make_spec(tmp_path, staleness=1, tree={"resources": resources})
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    assert stage.alerts() == ["verifier-1 sends no heartbeat"]
    assert stage.launcher.restarted == []


def test_a_worker_that_scaling_has_started_again_is_not_started_once_more(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    def told(stage: Stage) -> list[tuple[str, str]]:
        changes = (event for _, event in stage.seen if isinstance(event, ServiceChanged))
        return [(event.worker_id, event.state) for event in changes if event.state in ("ended", "restarted")]

    async def play(stage: Stage) -> None:
        async with training(stage):
            # The first time it is started again at once, the second after a pause.
            stage.launcher.end(RUN, "verifier-0", -9)
            await eventually(lambda: len(told(stage)) == 2)
            stage.launcher.end(RUN, "verifier-0", -9)
            await eventually(lambda: len(told(stage)) == 3)
            await stage.driver.scale(Scale({"verifier": 2}))
            await eventually(lambda: len(told(stage)) == 4)
            await stage.driver.stop()

    spec = make_spec(tmp_path, staleness=1, tree={"resources": {"restarts": {"pause_s": 1.0}}})
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    assert told(stage) == [("verifier-0", "ended"), ("verifier-0", "restarted")] * 2
    assert stage.launcher.restarted == [["verifier-0"]]
    assert stage.summary()["restarts"] == 2


def test_a_worker_that_left_before_its_restart_was_due_is_not_started(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def play(stage: Stage) -> None:
        async with training(stage):
            await stage.driver.scale(Scale({"verifier": 2}))
            stage.launcher.end(RUN, "verifier-1", -9)
            await eventually(lambda: stage.launcher.restarted)
            stage.launcher.end(RUN, "verifier-1", -9)
            await eventually(lambda: any("verifier-1 is started again in 1 s" in words(one) for _, one in stage.seen))
            await stage.driver.scale(Scale({"verifier": 1}))
            await asyncio.sleep(1.5)
            assert stage.states()[-1] == "running"
            await stage.driver.stop()

    def words(event: Event) -> str:
        return event.message or "" if isinstance(event, ServiceChanged) else ""

    spec = make_spec(tmp_path, staleness=1, tree={"resources": {"restarts": {"pause_s": 1.0}}})
    stage = run_stage(spec, tmp_path / "run", play, url=valkey.url)
    assert stage.launcher.restarted == [["verifier-1"]]
    assert stage.summary()["restarts"] == 1


def test_a_change_whose_client_gives_up_waiting_is_made_and_kept(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    folder, launcher = tmp_path / "run", SlowLauncher()

    async def play(stage: Stage) -> None:
        async with training(stage):
            asked = asyncio.create_task(stage.driver.scale(Scale({"verifier": 2})))
            await eventually(lambda: launcher.changing)
            asked.cancel()
            await eventually(lambda: len(launcher.applied) == 2)
            await stage.driver.stop()

    run_stage(make_spec(tmp_path, staleness=1), folder, play, url=valkey.url, launcher=launcher)
    assert load_spec(folder / "spec.yaml").resources.verifier.replicas == 2
