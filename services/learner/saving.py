"""When a checkpoint is written, from which one a learner goes on, and what the batch log forgets for it."""

import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from functools import partial

from dapo.bus.keys import CHECKPOINT_WANTED, CHECKPOINT_WRITTEN
from dapo.bus.roles import LearnerBus
from dapo.contracts.events import Alert
from dapo.records.checkpoints import (
    Checkpoint,
    CheckpointError,
    directory_name,
    find_newest,
    newest_epoch,
    read_whole,
    step_and_epoch,
)
from dapo.spec import RunSpec
from services.learner.background import ControlLoop
from services.learner.checkpoint import CheckpointStore, Draft
from services.learner.distributed import Ranks, broadcast_ints, min_ints
from services.learner.instruments import CHECKPOINT_SECONDS
from services.learner.signs import files_written, keep_announcing

log = logging.getLogger(__name__)

_CROWDED_SHARE = 0.7
"""Share of the run's memory budget from which payloads are freed early."""
_NONE = -1
_ANSWER_S = 600.0
"""How long it stays said that a checkpoint was written for somebody who waits."""


class Saving:
    """The checkpoints of a run as its learner makes and takes them, on each rank.

    A checkpoint is written by a thread of each rank (`save`): beside the training, where copies of the training state
    have room in the host's memory. It counts once all ranks have written (`settle`); one that is due meanwhile waits.

    Promises: a batch leaves the log, with its payloads, only once the checkpoint before the newest covers it, so that
    the newest may be damaged; where memory is crowded or the run has ended, once the newest covers it. Rank 0 asks
    whether its epoch is the newest before it writes and before it marks, and raises Fenced if not; what it writes in
    between is of its own epoch, and counts for nobody once its successor has marked one (dapo/records/checkpoints.py).
    Restart: `resume` finds the newest whole checkpoint whose later batches the log still has.
    """

    def __init__(
        self, spec: RunSpec, ranks: Ranks, bus: LearnerBus, control: ControlLoop, store: CheckpointStore
    ) -> None:
        self._spec = spec
        self._ranks = ranks
        self._bus = bus
        self._control = control
        self._store = store
        self._epoch = 0
        self._released_step = 0
        self._told_of_release = False
        self._granted: str | None = None
        self.step: int | None = None
        """Of the newest checkpoint."""
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: tuple[Draft, Future[None]] | None = None
        self._began_s = 0.0
        self.loaded_ranks = ranks.world_size
        """How many wrote the checkpoint that `resume` has loaded."""

    # -- start

    def acquire_epoch(self) -> int:
        """On rank 0: an epoch above all that ever wrote here, also where Redis lost count."""
        above = newest_epoch(self._store.root)
        return self._control.call(self._bus.lease.acquire("learner", above=above))

    def resume(self, epoch: int, published: int) -> int:
        """Load the newest whole checkpoint on all ranks; returns its step, 0 where there is none.

        Raises CheckpointError where none can be continued: batches behind it were trained up to version `published`
        and are not in the log any more.
        """
        self._epoch = epoch
        step, source = broadcast_ints(self._find(published) if self._ranks.leads else [0, 0])
        if step == _NONE:
            return 0
        checkpoint = read_whole(self._store.root / directory_name(step, source))
        self._store.load(checkpoint)
        self.step = step
        self.loaded_ranks = checkpoint.manifest.world_size
        if self.loaded_ranks != self._ranks.world_size:
            written, now = self.loaded_ranks, self._ranks.world_size
            log.info(
                "%s was written with ranks: %d, it goes on with ranks: %d", checkpoint.directory.name, written, now
            )
        return step

    def _find(self, published: int) -> list[int]:
        """[step, epoch that wrote it] of the checkpoint to go on from."""
        checkpoint, damage = find_newest(self._store.root)
        if damage:
            self._tell_of_damage(checkpoint, damage)
        start = checkpoint.manifest.step if checkpoint is not None else 0
        if start < published and not self._control.call(self._bus.batches.reaches_back(start)):
            where = f"the checkpoint of step {start}" if checkpoint is not None else "the beginning"
            after = ": " + "; ".join(damage) if damage else ""
            raise CheckpointError(
                f"the run has come to step {published} and cannot go on from {where}, as the batches behind it have "
                f"left the log{after}. Restore {'what is damaged' if damage else 'the newest checkpoint'}, or start a "
                "new run from what dapo export writes"
            )
        return list(step_and_epoch(checkpoint.directory.name)) if checkpoint is not None else [_NONE, 0]

    def _tell_of_damage(self, checkpoint: Checkpoint | None, damage: list[str]) -> None:
        start = f"step {checkpoint.manifest.step}" if checkpoint is not None else "the base model"
        message = f"a checkpoint is damaged, the learner goes on from {start}: {'; '.join(damage)}"
        log.error("%s", message)
        self._control.call(self._bus.runs.emit(Alert(cause="checkpoint_damaged", message=message)))

    # -- when

    def is_due(self, step: int) -> bool:
        """After a step, on all ranks together."""
        due = 0
        if self._ranks.leads:
            due = int(step % self._spec.checkpoint.every_steps == 0 or self.must_free(step))
        return bool(broadcast_ints([due])[0])

    def is_wanted(self, step: int) -> bool:
        """On rank 0: whether somebody who is about to stop the run waits for a checkpoint of `step`, which is not
        written yet. Who waits for one that is there is told so."""
        wish = self._control.call(self._bus.registry.find(CHECKPOINT_WANTED))
        if wish is None or self._granted == wish:
            return False
        if (self.step or 0) < step:
            return True
        self._granted = wish
        self._control.call(self._bus.registry.announce(CHECKPOINT_WRITTEN, wish, _ANSWER_S))
        return False

    def must_free(self, step: int) -> bool:
        """On rank 0: whether memory is crowded by payloads that a checkpoint of `step` would free.

        First lets go of those that are kept for a damaged checkpoint's sake.
        """
        if not self._crowded():
            return False
        newest = self.step or 0
        if self._released_step < newest:
            self._release(newest)
            self._tell_of_release()
        return step > newest and self._crowded()

    def _crowded(self) -> bool:
        used = self._control.call(self._bus.payloads.used_bytes()) / 2**20
        return used > _CROWDED_SHARE * self._spec.resources.redis.memory_mib

    def _tell_of_release(self) -> None:
        if self._told_of_release:
            return
        self._told_of_release = True
        message = (
            f"payloads take more than {_CROWDED_SHARE:.0%} of resources.redis.memory_mib: those that the checkpoint "
            "before the newest would need are freed, so the newest is the only one that the run can go on from"
        )
        log.warning("%s", message)
        self._control.call(self._bus.runs.emit(Alert(cause="checkpoint_fallback_freed", message=message)))

    # -- what

    def save(self, step: int) -> None:
        """On all ranks: begin to write a checkpoint of `step`, once none is being written; `settle` ends it. Where
        memory is short it is settled when this returns. Raises StorageError."""
        self.settle()
        if self.step == step:
            return
        self._still_leader()
        frontier = self._control.call(self._bus.decisions.frontier(step)) if self._ranks.leads else None
        draft = self._store.draft(step, self._epoch, frontier)
        self._began_s = time.monotonic()
        self._writing = (draft, self._writer.submit(self._write, draft))
        if not draft.beside:
            self.settle()

    def _write(self, draft: Draft) -> None:
        """What a rank does without the others: when this returns its files are on the disk, and by rank 0 the facts in
        Redis that the checkpoint stands on."""
        self._store.write(draft)
        if self._ranks.leads:
            self._control.call(self._bus.batches.sync_to_disk())

    def is_written(self) -> bool:
        """On all ranks together: whether each has done its part of a checkpoint, so that `settle` waits for nothing.
        Raises as `settle` does."""
        return self._writing is not None and self._all_wrote(*self._writing)

    def settle(self) -> None:
        """On all ranks together: wait for what is being written, mark it, and only then let the batch log forget.

        Raises StorageError, or whatever else kept this rank from writing; CheckpointError where that was another rank;
        Fenced on a rank 0 that was replaced.
        """
        if self._writing is None:
            return
        draft, writing = self._writing
        with self._showing(draft):
            wait([writing])
            self._all_wrote(draft, writing)
        self._writing = None
        self.step = draft.step
        if not self._ranks.leads:
            return
        self._store.complete(draft)
        self._still_leader()
        self._store.mark(draft.directory, self._epoch)
        CHECKPOINT_SECONDS.observe(time.monotonic() - self._began_s)
        log.info("checkpoint %s", draft.directory.name)
        self._release(self._store.covered_step)
        self.must_free(draft.step)
        self._still_leader()
        self._store.prune(self._epoch)

    def _showing(self, draft: Draft) -> AbstractContextManager[None]:
        """Meanwhile whoever watches the run sees how the files of all ranks grow."""
        if not self._ranks.leads:
            return nullcontext()
        what = f"{self._epoch}.{draft.step}, saving"
        return self._control.beside(keep_announcing(self._bus, what, partial(files_written, draft.directory)))

    def _all_wrote(self, draft: Draft, writing: Future[None]) -> bool:
        done = writing.done()
        failed = done and writing.exception() is not None
        (least,) = min_ints([-1 if failed else int(done)])
        if failed:
            self._still_leader()  # A successor deletes what its predecessor writes.
            writing.result()
        if least < 0:
            raise CheckpointError(f"the checkpoint of step {draft.step} is not whole: another rank could not write it")
        return bool(least)

    def finish(self, step: int) -> None:
        """On all ranks, at the end of the log: a checkpoint of the last step (where anything was trained), and nothing
        left in the log."""
        if step:
            self.save(step)
        self.settle()
        if self._ranks.leads:
            self._release(step)

    def _release(self, step: int) -> None:
        """The batches before `step` leave the log. Raises Fenced."""
        if step > self._released_step:
            self._control.call(self._bus.batches.commit_checkpoint(step - 1, self._epoch))
            self._released_step = step

    def _still_leader(self) -> None:
        """Raises Fenced: no file asks whether its writer has been replaced."""
        if self._ranks.leads:
            self._control.call(self._bus.lease.check("learner", self._epoch))
