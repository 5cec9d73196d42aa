"""A learner rank whose checkpoints are written when the test lets them be.

`python -m tests.support.learner.saving_rank SCENE URL RUN_DIR` with the launcher's environment plays one of SCENES; it
ends with 0 where all is as it should be.
"""

import errno
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import torch.distributed as dist

from dapo.bus import Bus
from dapo.bus.errors import Fenced
from dapo.bus.keys import LEARNER_STEP
from dapo.host.files import sync
from dapo.host.storage import StorageError
from dapo.records.checkpoints import CheckpointError, list_marked, read_whole
from dapo.v1 import messages_pb2 as pb
from services.learner import signs, state
from services.learner.__main__ import stop_on_sigterm
from services.learner.background import ControlLoop
from services.learner.checkpoint import CheckpointStore, Draft
from services.learner.distributed import Ranks, broadcast_ints
from services.learner.export import choose
from services.learner.model.policy import PolicyModel, load_causal
from services.learner.saving import Saving
from services.learner.step.engine import LearnerEngine
from services.learner.step.fingerprint import fingerprint
from services.learner.step.payloads import fetch_samples
from services.learner.step.trainer import Trainer
from tests.support.bus import RUN, make_kept
from tests.support.learner.meeting import join
from tests.support.learner.processes import GROUP_SIZE, make_batch, make_spec, payload, payload_keys

BATCHES = 3
WAIT_S = 60.0


class GatedStore(CheckpointStore):
    """Writes once the gate is open, and fails with `failure` where there is one."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.gate = threading.Event()
        self.wrote = threading.Event()
        self.failure: OSError | None = None

    def write(self, draft: Draft) -> None:
        assert self.gate.wait(WAIT_S)
        with self._in_words(draft.step):
            if self.failure is not None:
                raise self.failure
        super().write(draft)
        self.wrote.set()


class Stage:
    """A run whose batches are all cut, and its learner before the first of them."""

    def __init__(self, url: str, run_dir: Path, ranks: Ranks) -> None:
        self.run_dir, self.ranks = run_dir, ranks
        self.control = ControlLoop()
        self.bus = self.control.call(Bus.connect(url, RUN))
        spec = make_spec(run_dir / "model", ranks=ranks.world_size, every_steps=1, keep_last=2)
        self.batches = [make_batch(self.bus, number) for number in range(BATCHES)]
        if ranks.leads:
            self.control.call(self._cut(spec.model_dump_json()))
        dist.barrier()
        engine = LearnerEngine(PolicyModel(load_causal(spec.model.path, spec.model.dtype), 1.0), spec, ranks)
        self.trainer = Trainer(spec, engine)
        self.store = GatedStore(run_dir, spec, self.trainer)
        self.saving = Saving(spec, ranks, self.bus, self.control, self.store)
        (self.epoch,) = broadcast_ints([self.saving.acquire_epoch() if ranks.leads else 0])
        assert self.saving.resume(self.epoch, 0) == 0

    async def _cut(self, spec: str) -> None:
        await self.bus.runs.create(spec, str(self.run_dir), "2026-01-01T00:00:00Z")
        epoch = await make_kept(self.bus, 2 * BATCHES, GROUP_SIZE)
        await self.bus.payloads.put(dict.fromkeys(payload_keys(self.batches), payload()))
        for batch in self.batches:
            await self.bus.batches.cut(batch, epoch)

    def train(self, number: int) -> str:
        """The parameters' fingerprint after it."""
        batch, policy = self.batches[number], self.trainer.engine.module
        self.trainer.train(
            batch, lambda records: self.control.call(fetch_samples(self.bus, records, policy.vocabulary, ()))[0]
        )
        if self.ranks.leads:
            groups = [group.group_id for group in batch.groups]
            self.control.call(self.bus.batches.record_step(pb.StepReport(batch=number), groups, self.epoch))
        return self.fingerprint()

    def fingerprint(self) -> str:
        found = [fingerprint(self.trainer.engine)]
        dist.broadcast_object_list(found)
        return found[0]

    def requires(self, step: int | None, marked: list[str], log: list[int]) -> None:
        """Those are the newest checkpoint's step, the checkpoints that count, and the batches that the log has left."""
        dist.barrier()
        if self.ranks.leads:
            batches = self.control.call(self.bus.batches.read(-1, block_s=0, count=9))
            assert [path.name for path in list_marked(self.store.root)] == marked
            assert [batch.batch for batch in batches] == log
        assert self.saving.step == step
        dist.barrier()


def beside(stage: Stage) -> None:
    """The checkpoint of a step is that of the step, though others are trained before it is written; it counts once the
    last rank has written, and so long the next one waits."""
    saving, store = stage.saving, stage.store
    last = stage.ranks.rank == stage.ranks.world_size - 1
    first = stage.train(0)
    saving.save(1)
    assert not saving.is_written()
    second = stage.train(1)
    assert second != first
    stage.requires(None, [], [0, 1, 2])
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        choose(stage.run_dir)

    if not last:
        store.gate.set()
        assert store.wrote.wait(WAIT_S)
    dist.barrier()
    assert not saving.is_written(), "one rank has not written"
    due = threading.Thread(target=saving.save, args=(2,))
    due.start()
    due.join(timeout=1.0)
    assert due.is_alive(), "the second did not wait for the first"
    assert not list_marked(store.root)
    store.gate.set()
    due.join(timeout=WAIT_S)
    assert not due.is_alive()
    third = stage.train(2)
    until_written(saving)
    stage.requires(1, ["step-000001.e1"], [0, 1, 2])
    saving.settle()
    stage.requires(2, ["step-000002.e1", "step-000001.e1"], [1, 2])

    # While one is written it is no checkpoint, and none is deleted for it.
    store.gate.clear()
    saving.save(3)
    stage.requires(2, ["step-000002.e1", "step-000001.e1"], [1, 2])
    assert choose(stage.run_dir)[0].manifest.step == 2
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 3: those kept are of the steps 1, 2\."):
        choose(stage.run_dir, step=3)
    for name, wanted in (("step-000001.e1", first), ("step-000002.e1", second)):
        store.load(read_whole(store.root / name))
        assert stage.fingerprint() == wanted, name
    store.gate.set()
    saving.finish(3)
    stage.requires(3, ["step-000003.e1", "step-000002.e1"], [])
    store.load(read_whole(store.root / "step-000003.e1"))
    assert stage.fingerprint() == third


def until_written(saving: Saving) -> None:
    deadline = time.monotonic() + WAIT_S
    while not saving.is_written():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def watched(stage: Stage) -> None:
    """While a checkpoint is waited for, each file of it is a sign that the learner gets on, whichever rank writes."""
    last = stage.ranks.rank == stage.ranks.world_size - 1
    files = threading.Semaphore(0)

    def sync_when_let(path: Path) -> None:
        assert files.acquire(timeout=WAIT_S)
        sync(path)

    def sign() -> str | None:
        return stage.control.call(stage.bus.registry.find(LEARNER_STEP))

    if last:
        state._FILE_BYTES, state.sync = 1, sync_when_let
    signs._PERIOD_S = 0.05
    stage.store.gate.set()
    stage.train(0)
    stage.saving.save(1)
    settling = threading.Thread(target=stage.saving.settle)
    settling.start()
    signs_seen = {sign()}
    for number in range(2, 6):
        if last:
            files.release()
            deadline = time.monotonic() + WAIT_S
            while len(signs_seen) < number:
                assert time.monotonic() < deadline, signs_seen
                time.sleep(0.05)
                signs_seen.add(sign())
    if last:
        files.release(10_000)
    settling.join(timeout=WAIT_S)
    assert not settling.is_alive()
    stage.requires(1, ["step-000001.e1"], [0, 1, 2])


def full(stage: Stage) -> None:
    """The disk refuses what the last rank writes: it says so, and the others that they miss it."""
    last = stage.ranks.rank == stage.ranks.world_size - 1
    stage.train(0)
    if last:
        stage.store.failure = OSError(errno.ENOSPC, "No space left on device", str(stage.store.root))
    stage.store.gate.set()
    stage.saving.save(1)
    kind: type[Exception] = StorageError if last else CheckpointError
    says = "cannot be written: the disk is full: " if last else "is not whole: another rank could not write it"
    with pytest.raises(kind, match=f"^the checkpoint of step 1 {says}"):
        until_written(stage.saving)
    with pytest.raises(kind, match=f"^the checkpoint of step 1 {says}"):
        stage.saving.settle()
    stage.requires(None, [], [0, 1, 2])


def replaced(stage: Stage) -> None:
    """A successor has deleted what is being written."""
    stage.train(0)
    stage.saving.save(1)
    stage.control.call(stage.bus.lease.acquire("learner"))
    shutil.rmtree(stage.store.root)
    stage.store.gate.set()
    with pytest.raises(Fenced, match="learner epoch 1, newest 2"):
        until_written(stage.saving)
    assert not stage.store.root.exists()


def killed(stage: Stage) -> None:
    """Between two files of the second checkpoint."""
    stage.store.gate.set()
    stage.train(0)
    stage.saving.save(1)
    stage.saving.settle()
    stage.train(1)
    synced: list[Path] = []

    def sync_and_die(path: Path) -> None:
        sync(path)
        synced.append(path)
        if len(synced) == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    state._FILE_BYTES, state.sync = 1, sync_and_die
    stage.saving.save(2)
    time.sleep(WAIT_S)


def stopped(stage: Stage) -> None:
    """By SIGTERM, while the second checkpoint is being written."""
    stage.store.gate.set()
    stage.train(0)
    stage.saving.save(1)
    stage.saving.settle()
    stage.store.gate.clear()
    stage.train(1)
    stage.saving.save(2)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(WAIT_S)


SCENES = {scene.__name__: scene for scene in (beside, watched, full, replaced, killed, stopped)}

if __name__ == "__main__":
    stop_on_sigterm()
    SCENES[sys.argv[1]](Stage(sys.argv[2], Path(sys.argv[3]), join()))
    # Rank 0 has the store at which the others say goodbye.
    dist.barrier()
