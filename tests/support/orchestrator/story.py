"""A run over several starts, with scripted services: what was trained and issued in all of them."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from dapo.bus import Bus
from dapo.records.checkpoints import Manifest, directory_name, file_sizes, mark, newest_epoch, write_manifest
from dapo.records.folder import RunFolder
from dapo.records.json_lines import read_json_lines
from dapo.spec.run import RunSpec
from dapo.v1 import messages_pb2 as pb
from tests.support.orchestrator.control import PROMPTS, Workers, mixed_until
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
        self.metrics = RunFolder(folder).metrics
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
        url: str | None = None,
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

        return run_stage(spec, self.folder, play, url=url, previous=previous)

    def tell(self, learner: Learner, workers: Workers) -> None:
        self.batches |= {batch.batch: batch for batch in learner.batches}
        self.places |= workers.rows_of

    def check(self, steps: int) -> None:
        """Of a run that is over: every step once, no group twice, every prompt in the data's order."""
        rows = read_json_lines(self.metrics)
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
