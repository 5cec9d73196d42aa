"""A run that has ended goes on, from its Redis or from a checkpoint, with scripted services."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.records.checkpoints import Manifest, directory_name, file_sizes, mark, newest_epoch, write_manifest
from dapo.records.folder import RunFolder
from dapo.records.json_lines import read_json_lines
from dapo.spec.load import load_spec
from dapo.spec.problem import SpecError
from dapo.spec.run import RunSpec
from dapo.spec.workloads import Workload
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.launch.launcher import LaunchError, RunTarget
from services.orchestrator.runs.resumption import changes
from tests.support.orchestrator.control import PROMPTS, STEPS, Workers, make_spec, mixed_until
from tests.support.orchestrator.launcher import FakeLauncher
from tests.support.orchestrator.stage import Stage, run_stage, services
from tests.support.waiting import eventually

ROWS = 23
STALENESS = 1


async def save(bus: Bus, folder: Path, step: int, epoch: int) -> Path:
    """A checkpoint as the learner writes it, with one small file in it, that covers `step` steps."""
    root = RunFolder(folder).checkpoints
    directory = root / directory_name(step, epoch)
    directory.mkdir(parents=True)
    (directory / "weights").write_bytes(b"w" * 100)
    frontier = (await bus.decisions.frontier(step))._asdict()
    manifest = Manifest(step, epoch, 5, 1, 0, "float32", file_sizes(directory), frontier)
    write_manifest(directory, manifest)
    names = sorted((path.name for path in root.iterdir() if path.is_dir()), reverse=True)
    mark(root, epoch, names)
    return directory


class Learner:
    """Trains from `step` on, and writes a checkpoint after every second step."""

    def __init__(self, bus: Bus, folder: Path, step: int) -> None:
        self.bus, self.folder, self.step = bus, folder, step
        self.batches: list[pb.TrainBatch] = []

    async def run(self, last: int | None = None) -> None:
        """To the end of the log, or until so many steps are done."""
        epoch = await self.bus.lease.acquire("learner", above=newest_epoch(RunFolder(self.folder).checkpoints))
        await self.bus.weights.publish_version(pb.Version(incarnation=epoch, step=self.step), epoch)
        while last is None or self.step < last:
            for batch in await self.bus.batches.read(self.step - 1, block_s=0.2):
                if batch.end:
                    if self.step % 2:
                        await save(self.bus, self.folder, self.step, epoch)
                    return await self.bus.batches.commit_checkpoint(self.step - 1, epoch)
                self.step = batch.batch + 1
                self.batches.append(batch)
                version = pb.Version(incarnation=epoch, step=self.step)
                report = pb.StepReport(batch=batch.batch, version=version, metrics={"step_s": 0.5})
                await self.bus.weights.publish_version(version, epoch)
                await self.bus.batches.record_step(report, [group.group_id for group in batch.groups], epoch)
                if self.step % 2 == 0:
                    await save(self.bus, self.folder, self.step, epoch)
        return None


class Story:
    """What was trained and issued over all starts of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.batches: dict[int, pb.TrainBatch] = {}
        self.places: dict[str, tuple[int, int]] = {}

    def start(
        self,
        spec: RunSpec,
        *,
        step: int = 0,
        last: int | None = None,
        at_last: Callable[[Bus], Awaitable[None]] | None = None,
        previous: RunSpec | None = None,
        mixed: int | None = None,
    ) -> Stage:
        """Train from `step` to the end, or to `last` and stop the run there, after `at_last`. `mixed`: groups with
        greater numbers are uniform."""

        async def play(stage: Stage) -> None:
            bus = await stage.bus()
            async with services(bus) as workers:
                if mixed is not None:
                    workers.correct = mixed_until(mixed)
                learner = Learner(bus, self.folder, step)
                await learner.run(last)
                if last is None:
                    await eventually(lambda: stage.states()[-1] in ("succeeded", "failed"))
                else:
                    await eventually(lambda: stage.driver.snapshot().step == last)
                    if at_last is not None:
                        await at_last(bus)
                    await stage.driver.stop()
                self.tell(learner, workers)
            await bus.close()

        return run_stage(spec, self.folder, play, url=None, previous=previous)

    def tell(self, learner: Learner, workers: Workers) -> None:
        self.batches |= {batch.batch: batch for batch in learner.batches}
        self.places |= workers.rows_of

    def check(self, steps: int) -> None:
        """Of a run that is over: every step once, no group twice, every prompt in the data's order."""
        rows = read_json_lines(RunFolder(self.folder).metrics)
        assert [row["step"] for row in rows] == list(range(1, steps + 1))
        trained = [group.group_id for number in sorted(self.batches) for group in self.batches[number].groups]
        assert len(trained) == len(set(trained)) == steps * PROMPTS
        numbers = sorted(int(group_id[1:]) for group_id in self.places)
        assert numbers == list(range(len(numbers)))
        assert all(self.places[f"g{number:010d}"] == divmod(number, ROWS) for number in numbers)
        last = rows[-1]["ledger"]
        assert last["trained"] == steps * PROMPTS


def resumed(stage: Stage) -> str:
    (message,) = [text for text in stage.alerts() if text.startswith("the run goes on")]
    return message


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
