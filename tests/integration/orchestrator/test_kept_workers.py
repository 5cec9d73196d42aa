"""Workers that outlive their run service keep their term, until what they know is no longer so."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dapo.bus import Bus, Fenced
from dapo.bus.keys import WORKERS
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.events import Alert
from dapo.spec.run import RunSpec
from services.orchestrator.launch.launcher import RunTarget
from services.orchestrator.runs.outcome import INTERRUPTED
from tests.support.bus import drive
from tests.support.orchestrator.control import make_spec
from tests.support.orchestrator.launcher import FakeLauncher
from tests.support.orchestrator.stage import RUN, Stage, run_stage
from tests.support.waiting import eventually


class KeepingLauncher(FakeLauncher):
    keeps_workers = True


def serve(launcher: FakeLauncher, spec: RunSpec, folder: Path, url: str, previous: RunSpec | None = None) -> RunTarget:
    """A run service that leads the run until its workers are placed, and is shut down then; for whom they are."""

    async def play(stage: Stage) -> None:
        count = len(launcher.applied)
        await eventually(lambda: len(launcher.applied) > count or stage.driver.over)
        await eventually(lambda: "starting" in stage.states())
        await stage.driver.stop(INTERRUPTED)

    run_stage(spec, folder, play, url=url, launcher=launcher, previous=previous)
    return launcher.applied[-1][0]


def write_for(url: str, term: int) -> None:
    """As a worker of that term does. Raises Fenced."""

    async def scenario(bus: Bus) -> None:
        worker = await Bus.connect(url, RUN)
        worker.act_for(WORKERS, term)
        try:
            await worker.runs.emit(Alert(message="at work"))
        finally:
            await worker.close()

    drive(url, scenario)


def test_the_next_service_takes_them_over_and_they_go_on(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    launcher, spec, folder = KeepingLauncher(), make_spec(tmp_path, staleness=1), tmp_path / "run"
    first = serve(launcher, spec, folder, valkey.url)
    assert first.term == first.epoch > 0
    before = {one.worker_id: one.instance for one in asyncio.run(launcher.observe(RUN))}
    assert before
    write_for(valkey.url, first.term)
    second = serve(launcher, spec, folder, valkey.url, previous=spec)
    assert second.term == first.term
    assert second.epoch > first.epoch
    assert {one.worker_id: one.instance for one in asyncio.run(launcher.observe(RUN))} == before
    write_for(valkey.url, first.term)
    assert launcher.stopped == []


@pytest.mark.parametrize("change", ["spec", "redis"])
def test_where_what_they_know_is_no_longer_so_they_are_dismissed(
    change: str, valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    launcher, spec, folder = KeepingLauncher(), make_spec(tmp_path, staleness=1), tmp_path / "run"
    first = serve(launcher, spec, folder, valkey.url)
    tree: dict[str, Any] = {}
    if change == "spec":
        tree = {"optimizer": {"learning_rate": 1e-3}}
    else:

        async def lose(bus: Bus) -> None:
            await bus.control_server.client.flushall()

        drive(valkey.url, lose)
    after = make_spec(tmp_path, staleness=1, tree=tree)
    second = serve(launcher, after, folder, valkey.url, previous=spec)
    assert second.term == second.epoch > first.epoch
    assert launcher.stopped == [RUN], "whoever is left of them ends"
    with pytest.raises(Fenced):
        write_for(valkey.url, first.term)
    write_for(valkey.url, second.term)


def test_elsewhere_they_end_with_their_service(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    launcher, spec, folder = FakeLauncher(), make_spec(tmp_path, staleness=1), tmp_path / "run"
    first = serve(launcher, spec, folder, valkey.url)
    assert launcher.stopped == [RUN]
    second = serve(launcher, spec, folder, valkey.url, previous=spec)
    assert second.term == second.epoch > first.term
    with pytest.raises(Fenced):
        write_for(valkey.url, first.term)


def test_a_run_that_is_stopped_has_no_workers_wherever_they_are(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    launcher = KeepingLauncher()

    async def play(stage: Stage) -> None:
        await eventually(lambda: launcher.applied)
        await stage.driver.stop()

    run_stage(make_spec(tmp_path, staleness=1), tmp_path / "run", play, url=valkey.url, launcher=launcher)
    assert launcher.stopped == [RUN]
