"""A run's checkpoints are in an object store, and it goes on from there, over real Valkey and a real S3 server."""

import asyncio
import json
import shutil
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dapo.bus import Fenced
from dapo.cli.main import app
from dapo.contracts.events import Alert
from dapo.records.folder import RunFolder
from dapo.records.identity import RunIdentity
from dapo.records.mirror.fetching import find_mirrored
from dapo.records.mirror.inventory import names_in
from dapo.records.mirror.store import ObjectStore
from dapo.spec.run import RunSpec
from services.orchestrator.records import mirror
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.records.samples import Secure
from tests.support.orchestrator.control import STEPS, make_spec
from tests.support.orchestrator.stage import RUN
from tests.support.orchestrator.story import Story, resumed
from tests.support.store.folder import Folder
from tests.support.store.server import BUCKET, Gate

URL = f"s3://{BUCKET}/dapo"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "_LOOK_S", 0.05)
    monkeypatch.setattr(mirror, "_PAUSE_S", 0.2)


def mirrored(tmp_path: Path, **fields: object) -> RunSpec:
    return make_spec(tmp_path, staleness=1, tree={"checkpoint": {"mirror": URL, **fields}})


def of_mirror(alerts: list[str]) -> list[str]:
    return [text for text in alerts if text.startswith("checkpoint.mirror")]


def test_the_newest_checkpoints_of_a_run_are_there_at_its_end(gate: Gate, tmp_path: Path) -> None:
    story = Story(tmp_path / "run")
    stage = story.start(mirrored(tmp_path, mirror_keep=1))
    assert stage.states()[-1] == "succeeded"
    assert of_mirror(stage.alerts()) == []
    store = ObjectStore(f"{URL}/{RUN}")
    assert find_mirrored(store).step == STEPS
    assert len(names_in(store.sizes())) == 1


def test_a_run_whose_volume_is_lost_goes_on_from_the_store(gate: Gate, tmp_path: Path) -> None:
    """With the command that people call. Step 5 is trained again: the checkpoint is of step 4."""
    spec = mirrored(tmp_path)
    story = Story(tmp_path / "run")
    story.start(spec, last=5)
    shutil.rmtree(story.folder)
    shown = CliRunner().invoke(app, ["checkpoints", "fetch", URL, str(story.folder)])
    assert shown.exit_code == 2
    assert f"There are {RUN}: add one to the URL" in shown.output
    shown = CliRunner().invoke(app, ["checkpoints", "fetch", f"{URL}/{RUN}", str(story.folder), "--dry-run", "--json"])
    assert json.loads(shown.stdout)["step"] == 4
    assert not story.folder.exists()
    shown = CliRunner().invoke(app, ["checkpoints", "fetch", f"{URL}/{RUN}", str(story.folder)])
    assert shown.exit_code == 0, shown.output
    assert "go on from step 4: dapo train --resume" in shown.output
    stage = story.start(spec, step=4, previous=spec)
    assert stage.states()[-1] == "succeeded"
    assert "from the checkpoint of step 4" in resumed(stage)
    story.check(STEPS)
    assert find_mirrored(ObjectStore(f"{URL}/{RUN}")).step == STEPS


def test_a_store_that_is_away_ends_no_run_and_gets_the_newest_when_it_is_back(gate: Gate, tmp_path: Path) -> None:
    """It refuses until the last checkpoint is written."""
    folder = tmp_path / "run"
    checkpoints = RunFolder(folder).checkpoints

    def away(method: str, path: str) -> tuple[int, str] | None:
        return None if list(checkpoints.glob(f"step-{STEPS:06d}*")) else (403, "AccessDenied")

    gate.rule = away
    stage = Story(folder).start(mirrored(tmp_path))
    assert stage.states()[-1] == "succeeded"
    failed, back = of_mirror(stage.alerts())
    assert "AccessDenied: no. Give the run service's environment credentials" in failed
    assert "The run goes on, the newest checkpoint is not there; it is tried again" in failed
    assert back.startswith("checkpoint.mirror has step-")
    assert find_mirrored(ObjectStore(f"{URL}/{RUN}")).step == STEPS


def test_a_store_that_stays_away_delays_the_end_by_its_bound_at_most(gate: Gate, tmp_path: Path) -> None:
    gate.rule = lambda method, path: (403, "AccessDenied")
    stage = Story(tmp_path / "run").start(mirrored(tmp_path, mirror_wait_s=0.5))
    assert stage.states()[-1] == "succeeded"
    *_, last = told = of_mirror(stage.alerts())
    assert len(told) == 2
    assert f"checkpoint.mirror lacks step-{STEPS:06d}" in last
    assert "AccessDenied" in last
    assert "It is copied if the run goes on" in last


def test_a_stop_waits_for_the_copy(gate: Gate, tmp_path: Path) -> None:
    stage = Story(tmp_path / "run").start(mirrored(tmp_path), last=6)
    assert stage.states()[-1] == "stopped"
    assert find_mirrored(ObjectStore(f"{URL}/{RUN}")).step == 6


class Told:
    """The events of a run."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    async def tell(self, event: Alert) -> bool:
        self.messages.append(event.message)
        return True


def play(
    tmp_path: Path, folder: Folder, act: Callable[[mirror.Mirror], Awaitable[None]], secure: Secure
) -> tuple[list[str], float]:
    """A mirror of a run that has come to step 9: what was told, and how long it took."""
    recorder = Recorder(folder.path, spec := mirrored(tmp_path), RunIdentity(RUN, "2026-01-01T00:00:00.000+00:00"))
    recorder.rows = [{"step": 9}]
    told = Told()

    async def main() -> None:
        one = mirror.Mirror(spec, recorder, told)
        one.begin(secure)
        await act(one)

    began = time.monotonic()
    asyncio.run(main())
    return told.messages, time.monotonic() - began


async def leading() -> None:
    """Nobody else leads the run."""


@pytest.mark.parametrize("late", [False, True], ids=["before the end", "while it waits"])
def test_a_run_that_is_to_end_at_once_waits_for_nothing(gate: Gate, tmp_path: Path, folder: Folder, late: bool) -> None:
    folder.save(4)
    asked = threading.Event()
    gate.rule = lambda method, path: asked.set() or time.sleep(3)  # type: ignore[func-returns-value]

    async def act(one: mirror.Mirror) -> None:
        await asyncio.to_thread(asked.wait, 20)
        if late:
            asyncio.get_running_loop().call_later(0.3, one.hurry)
        else:
            one.hurry()
        await one.end()
        assert not list(folder.path.glob(".mirror*"))

    told, took_s = play(tmp_path, folder, act, leading)
    assert told == []
    assert took_s < 2.5


def test_only_who_leads_the_run_copies(gate: Gate, tmp_path: Path, folder: Folder) -> None:
    folder.save(4)

    async def led_elsewhere() -> None:
        raise Fenced("another one leads it")

    async def act(one: mirror.Mirror) -> None:
        await asyncio.sleep(0.5)
        one.abandon()

    told, _ = play(tmp_path, folder, act, led_elsewhere)
    assert told == []
    assert gate.seen == []


def test_a_mirror_that_was_begun_again_copies_nothing_twice(gate: Gate, tmp_path: Path, folder: Folder) -> None:
    """And says how far it is."""
    folder.save(4)
    steps: list[int | None] = []

    async def act(one: mirror.Mirror) -> None:
        steps.append(one.step)
        await one.end()
        steps.append(one.step)

    play(tmp_path, folder, act, leading)
    assert any(method == "PUT" for method, _ in gate.seen)
    gate.seen.clear()
    told, _ = play(tmp_path, folder, act, leading)
    assert not any(method == "PUT" for method, _ in gate.seen)
    assert (told, steps) == ([], [None, 4, None, 4])


def test_a_checkpoint_that_the_records_have_not_come_to_waits(gate: Gate, tmp_path: Path, folder: Folder) -> None:
    folder.save(10)

    async def act(one: mirror.Mirror) -> None:
        await one.end()

    play(tmp_path, folder, act, leading)
    assert gate.seen == []
