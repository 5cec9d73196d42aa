"""A run that has ended goes on, from its Redis or from a checkpoint, with scripted services."""

import asyncio
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.records.folder import RunFolder
from dapo.records.identity import read_identity
from dapo.records.json_lines import read_json_lines
from dapo.spec.load import load_spec
from dapo.spec.problem import SpecError
from dapo.spec.run import RunSpec
from dapo.spec.workloads import Workload
from services.orchestrator.launch.launcher import LaunchError, RunTarget
from services.orchestrator.queue.entries import spec_file
from services.orchestrator.runs import driver
from services.orchestrator.runs.inputs import Inputs, open_inputs
from services.orchestrator.runs.resumption import changes, check_goes_on
from tests.integration.orchestrator.test_evaluator import evaluated
from tests.support.orchestrator.control import PROMPTS, STEPS, make_spec
from tests.support.orchestrator.launcher import FakeLauncher
from tests.support.orchestrator.stage import Stage, run_stage
from tests.support.orchestrator.story import STALENESS, Story, resumed
from tests.support.waiting import eventually


@pytest.mark.parametrize("last", [1, 5, 6])
def test_a_run_that_was_stopped_goes_on_from_its_redis(tmp_path: Path, last: int) -> None:
    """In the middle of an epoch (23 prompts) and about its end."""
    story, spec = Story(tmp_path / "run"), make_spec(tmp_path, staleness=STALENESS)
    assert story.start(spec, last=last).states()[-1] == "stopped"
    stage = story.start(spec, step=last, previous=spec)
    assert resumed(stage) == f"the run goes on behind step {last}"
    assert stage.states()[-1] == "succeeded"
    story.check(STEPS)


@pytest.mark.parametrize("last", [1, 5, 6])
def test_where_redis_is_empty_the_checkpoint_wins(tmp_path: Path, last: int) -> None:
    story, spec = Story(tmp_path / "run"), make_spec(tmp_path, staleness=STALENESS)
    story.start(spec, last=last)
    shutil.rmtree(RunFolder(story.folder).redis)
    saved = last - last % 2
    stage = story.start(spec, step=saved, previous=spec)
    assert f"checkpoint of step {saved}" in resumed(stage) or not saved
    assert stage.states()[-1] == "succeeded"
    story.check(STEPS)


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    story, spec = Story(tmp_path / "run"), make_spec(tmp_path, staleness=STALENESS)
    story.start(spec, last=6)
    shutil.rmtree(RunFolder(story.folder).redis)
    (newest,) = RunFolder(story.folder).checkpoints.glob("step-000006*")
    (newest / "weights").write_bytes(b"short")
    stage = story.start(spec, step=4, previous=spec)
    assert "from the checkpoint of step 4" in resumed(stage)
    assert "weights: 5 bytes, the manifest says 100" in resumed(stage)
    story.check(STEPS)


def test_where_the_log_does_not_reach_back_to_a_whole_checkpoint_that_one_wins(tmp_path: Path) -> None:
    """Memory was crowded, so the log began at the newest; and that is damaged."""
    story, spec = Story(tmp_path / "run"), make_spec(tmp_path, staleness=STALENESS)

    async def free(bus: Bus) -> None:
        await bus.batches.commit_checkpoint(5, await bus.lease.acquire("learner"))

    story.start(spec, last=6, at_last=free)
    (newest,) = RunFolder(story.folder).checkpoints.glob("step-000006*")
    (newest / "weights").write_bytes(b"short")
    stage = story.start(spec, step=4, previous=spec)
    assert resumed(stage).startswith("the run goes on from the checkpoint of step 4")
    assert "the batches behind step 4 have left the log" in resumed(stage)
    story.check(STEPS)


def test_a_run_whose_last_rows_are_lost_comes_to_its_end(tmp_path: Path) -> None:
    """A power cut may take rows that a checkpoint on disk covers."""
    story, spec = Story(tmp_path / "run"), make_spec(tmp_path, staleness=STALENESS)
    story.start(spec, last=6)
    shutil.rmtree(RunFolder(story.folder).redis)
    path = RunFolder(story.folder).metrics
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    assert story.start(spec, step=6, previous=spec).states()[-1] == "succeeded"
    assert [row["step"] for row in read_json_lines(path)] == [1, 2, 3, 4, 7, 8, 9, 10]


def test_a_start_that_was_cut_short_while_it_put_a_run_back_is_made_again(tmp_path: Path) -> None:
    story, spec = Story(tmp_path / "run"), make_spec(tmp_path, staleness=STALENESS)

    async def half(bus: Bus) -> None:
        epoch = await bus.lease.acquire("orchestrator")
        await bus.control_server.script("begin_at", bus.keys.prefix, epoch, -1, "", "", "", "", 0, 0)

    story.start(spec, last=1, at_last=half)
    for path in (RunFolder(story.folder).metrics, RunFolder(story.folder).evaluations):
        path.write_text("")
    stage = story.start(spec, previous=spec)
    assert resumed(stage).startswith("the run goes on from its beginning")
    assert stage.states()[-1] == "succeeded"
    story.check(STEPS)


def test_a_run_that_succeeded_goes_on_beyond_its_last_step(tmp_path: Path) -> None:
    story, spec = Story(tmp_path / "run"), make_spec(tmp_path, staleness=STALENESS)
    assert story.start(spec).states()[-1] == "succeeded"
    longer = make_spec(tmp_path, staleness=STALENESS, tree={"training": {"steps": STEPS + 4}})
    stage = story.start(longer, step=STEPS, previous=spec)
    assert "training.steps: 10 → 14" in " ".join(stage.alerts())
    assert stage.states()[-1] == "succeeded"
    story.check(STEPS + 4)


@pytest.mark.parametrize("redis_is_left", [True, False])
def test_a_run_that_ended_early_goes_on_once_its_cause_is_mended(tmp_path: Path, redis_is_left: bool) -> None:
    """Groups that the end had left without a batch come again, with those that were under way."""
    story, spec = Story(tmp_path / "run"), make_spec(tmp_path, staleness=STALENESS, max_uniform_batches=3)
    assert story.start(spec, mixed=3 * PROMPTS).states()[-1] == "failed"
    if not redis_is_left:
        shutil.rmtree(RunFolder(story.folder).redis)
    mended = make_spec(tmp_path, staleness=STALENESS, max_uniform_batches=4)
    stage = story.start(mended, step=3, previous=spec)
    assert resumed(stage).startswith("the run goes on from the checkpoint of step 3, and issues ")
    assert ("it had ended early, at step 3" in resumed(stage)) == redis_is_left
    assert stage.states()[-1] == "succeeded"
    story.check(STEPS)


def test_a_run_that_early_stopping_has_ended_goes_on_with_another_rule(tmp_path: Path) -> None:
    def spec(**rule: Any) -> RunSpec:
        return evaluated(tmp_path, every_steps=1, prompts_in_flight=6, early_stopping=rule)

    story, ended = Story(tmp_path / "run"), spec(set="exam", patience=1)
    first = story.start(ended)
    assert first.summary()["message"].startswith("exam has not risen above avg@3 = ")
    done = len(read_json_lines(story.metrics))
    assert done < STEPS
    with pytest.raises(SpecError, match=r"evaluation\.early_stopping: the run has ended by this rule.*patience = 1"):
        check_goes_on(RunFolder(story.folder), ended, over=True)
    stage = story.start(spec(), step=done, previous=ended)
    assert resumed(stage).startswith(f"the run goes on from the checkpoint of step {done}")
    assert stage.states()[-1] == "succeeded"
    assert [row["step"] for row in read_json_lines(story.metrics)] == list(range(1, STEPS + 1))


def test_a_spec_that_the_run_cannot_go_on_with_does_not_take_the_place_of_its_own(tmp_path: Path) -> None:
    story, spec = Story(tmp_path / "run"), make_spec(tmp_path, staleness=STALENESS)
    story.start(spec, last=5)
    shorter = make_spec(tmp_path, staleness=STALENESS, tree={"training": {"steps": 3}})

    async def wait(stage: Stage) -> None:
        await eventually(lambda: stage.states()[-1:] == ["failed"])

    refused = run_stage(shorter, story.folder, wait, url=None, previous=spec)
    assert refused.summary()["message"].startswith("training.steps = 3: the run has come to step ")
    assert load_spec(RunFolder(story.folder).spec) == spec
    assert story.start(spec, step=5, previous=spec).states()[-1] == "succeeded"
    story.check(STEPS)


def test_whoever_goes_on_with_a_run_that_was_asked_for_changes_has_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the service that was asked is killed right after its answer, before the run has come back."""
    story, spec = Story(tmp_path / "run"), make_spec(tmp_path, staleness=STALENESS)
    story.start(spec, last=2)
    reading, killed = threading.Event(), threading.Event()

    def read_slowly(spec: RunSpec) -> Inputs:
        reading.set()
        killed.wait(30)
        return open_inputs(spec)

    monkeypatch.setattr(driver, "open_inputs", read_slowly)
    changed = make_spec(tmp_path, staleness=STALENESS, tree={"checkpoint": {"on_stop_s": 7.0}})

    async def kill(stage: Stage) -> None:
        await eventually(reading.is_set)
        shutil.copytree(story.folder, tmp_path / "left")
        killed.set()
        await stage.driver.stop()

    run_stage(changed, story.folder, kill, url=None, previous=spec)
    left = tmp_path / "left"
    assert load_spec(RunFolder(left).spec) == spec
    assert load_spec(spec_file(left, read_identity(left))) == changed
    # It was stopped then, and goes on without a change.
    stage = story.start(spec, step=2, previous=spec)
    assert stage.states()[-1] == "succeeded"
    assert not RunFolder(story.folder).next_spec.exists()


def test_two_services_do_not_work_in_one_folder(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, staleness=STALENESS)

    async def play(stage: Stage) -> None:
        await (await stage.bus()).close()
        with pytest.raises(ValueError, match="the run goes on, in another run service"):
            await asyncio.to_thread(run_stage, spec, stage.folder, play, url=None, previous=spec)
        await stage.driver.stop()

    assert run_stage(spec, tmp_path / "run", play, url=None).states()[-1] == "stopped"


def test_what_may_change_is_listed_and_what_may_not_is_refused_by_field(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, staleness=1)
    freely = make_spec(tmp_path, staleness=1, tree={"optimizer": {"learning_rate": 3e-5}, "training": {"steps": 99}})
    assert [change.field for change in changes(spec, freely)] == ["optimizer.learning_rate", "training.steps"]
    fixed = make_spec(tmp_path, staleness=2, tree={"sampling": {"group_size": 8}, "optimizer": {"learning_rate": 3e-5}})
    with pytest.raises(SpecError) as refused:
        changes(spec, fixed)
    assert [problem.field for problem in refused.value.problems] == ["sampling.group_size", "asynchrony.max_staleness"]
    assert "a run that goes on keeps 4" in str(refused.value)


async def placed_then_stopped(stage: Stage) -> None:
    await eventually(lambda: stage.launcher.applied)
    await stage.driver.stop()


class BusyLauncher(FakeLauncher):
    """Workers of an earlier service hold the GPUs when a run is placed for the first time."""

    busy = True

    async def apply(self, run: RunTarget, workloads: Sequence[Workload]) -> None:
        if self.busy:
            self.busy = False
            raise LaunchError("0 GPUs are free")
        await super().apply(run, workloads)


def test_a_run_that_goes_on_waits_for_gpus_that_dying_workers_hold(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    spec, folder = make_spec(tmp_path, staleness=STALENESS), tmp_path / "run"
    run_stage(spec, folder, placed_then_stopped, url=valkey.url)
    stage = run_stage(spec, folder, placed_then_stopped, url=valkey.url, previous=spec, launcher=BusyLauncher())
    assert stage.summary()["state"] == "stopped"
    assert [words for words in stage.alerts() if "GPUs" in words] == [
        "placing workers is tried for 120 s: 0 GPUs are free"
    ]


def test_a_run_that_goes_on_waits_for_a_redis_that_is_not_up_yet(tmp_path: Path) -> None:
    spec, folder = make_spec(tmp_path, staleness=STALENESS), tmp_path / "run"
    (tmp_path / "valkey").mkdir()
    server = EmbeddedValkey(tmp_path / "valkey", memory_mib=64)
    server.start()

    async def play(stage: Stage) -> None:
        await asyncio.sleep(1.5)
        await asyncio.to_thread(server.start)
        await placed_then_stopped(stage)

    try:
        run_stage(spec, folder, placed_then_stopped, url=server.url)
        url = server.url
        server.stop()
        stage = run_stage(spec, folder, play, url=url, previous=spec)
        assert stage.summary()["state"] == "stopped"
    finally:
        server.stop()
