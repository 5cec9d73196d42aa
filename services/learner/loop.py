"""The learner's main loop, one on each rank."""

import logging
import time
from enum import IntEnum
from functools import partial

from dapo.bus.failures import FailureReason
from dapo.bus.roles import LearnerBus
from dapo.contracts.events import Alert
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from dapo.worker import WorkerEnvironment
from services.learner.background import ControlLoop
from services.learner.checkpoint import CheckpointStore
from services.learner.distributed import Ranks, broadcast_ints
from services.learner.instruments import STEP, observe_step
from services.learner.replay import Replay
from services.learner.saving import Saving
from services.learner.signs import announce
from services.learner.step.fingerprint import fingerprint
from services.learner.step.payloads import TrainingSample, fetch_samples
from services.learner.step.trainer import Trainer, flat_samples
from services.learner.weights.buckets import WeightBuckets
from services.learner.weights.distribution import Distribution

log = logging.getLogger(__name__)

_WAIT_S = 0.5
"""Longest wait for a batch before looking for members that need weights."""
_PEER_WAIT_S = 60.0
"""How long a rank waits to read a batch that rank 0 has read already."""
_SURVIVING_SHARE = 0.5
"""Of a merged LoRA update; where less survives the rounding, people are told."""


class Action(IntEnum):
    IDLE = 0
    TRAIN = 1
    PUBLISH = 2
    CHECKPOINT = 3
    SETTLE = 4
    END = 5


class LearnerLoop:
    """Trains the batches of the log in order, publishes each version, writes checkpoints.

    Rank 0 decides what comes next (`_decide`) and broadcasts it as an Action; then all ranks do it together. Parts:
    - `trainer` (Trainer): one batch in, new parameters and the step's metrics out;
    - `buckets` (WeightBuckets): the parameters as the generators want them; under ZeRO 3 all ranks gather them;
    - `distribution` (Distribution): every rank sends them to its share of the generators, as rank 0 decides;
    - `replay` (Replay, on rank 0): tells whether what is trained again comes out as it did before;
    - `saving` (Saving): complete checkpoints, written by all ranks, and what the log forgets for them;
    - `control` (ControlLoop): the thread of the bus and the weight channel, so that heartbeats go on during a step.

    Invariants:
    - batch b is trained once per incarnation (fencing epoch of rank 0), after batch b − 1, by all ranks;
    - version b + 1 is published, and after that the step is recorded, only once Redis has batch b on disk;
    - batches leave the log, with their payloads, only once a marked checkpoint covers them (Saving);
    - a rank 0 whose epoch is not the newest any more raises Fenced before it marks a checkpoint.

    After a restart the newest whole checkpoint is loaded and the log is replayed from there; batches up to the version
    that was published last are trained again in silence, and their parameters compared. Nothing else survives.

    Waits without limit for the next batch, looking for members and memory every 0.5 s; a rank waits 60 s for a batch
    that rank 0 has read, and 30 min in a collective.
    """

    def __init__(
        self,
        spec: RunSpec,
        environment: WorkerEnvironment,
        ranks: Ranks,
        bus: LearnerBus,
        control: ControlLoop,
        trainer: Trainer,
        address: str,
    ) -> None:
        self.spec = spec
        self.ranks = ranks
        self.bus = bus
        self.control = control
        self.trainer = trainer
        self.address = address
        self.saving = Saving(spec, ranks, bus, control, CheckpointStore(environment.run_dir, spec, trainer))
        self.model_type: str = trainer.engine.module.causal.config.get_text_config().model_type
        self.serves_adapter = spec.serves_adapter(self.model_type)
        self.buckets = WeightBuckets(trainer.engine, spec.weight_sync.bucket_mib, adapter=self.serves_adapter)
        self.step = 0
        self.epoch = 0
        self.catch_up_step = 0
        self.distribution: Distribution | None = None
        self.replay: Replay | None = None
        self._unpublished = True
        self._told_of_rounding = False
        self._waited_s = 0.0
        self._step_ended = time.monotonic()
        self._next: pb.TrainBatch | None = None

    # -- start

    def start(self) -> None:
        """Take the fencing epoch, resume from the newest checkpoint, begin to look for generators."""
        epoch = published = 0
        if self.ranks.leads:
            epoch = self.saving.acquire_epoch()
            version = self.control.call(self.bus.weights.published_version())
            published = version.step if version is not None else 0
        self.epoch, self.catch_up_step = broadcast_ints([epoch, published])
        self.step = self.saving.resume(self.epoch, self.catch_up_step)
        if self.step or self.catch_up_step:
            log.info("goes on behind step %d; published so far: %d", self.step, self.catch_up_step)
        found = fingerprint(self.trainer.engine)
        if self.ranks.leads:
            STEP.set(self.step)
            self.replay = Replay(self.bus, self.control, self.step, self.ranks.world_size)
            self.replay.loaded(self.step, found, self.saving.loaded_ranks)
        sync = self.spec.weight_sync
        self.distribution = Distribution(
            *(self.bus, self.control, self.ranks, self.epoch, sync, self.buckets), address=self.address
        )

    # -- the loop

    def run(self) -> None:
        """Until the batch log ends; the last checkpoint is written before this returns."""
        while True:
            self.control.check()
            written = self.saving.is_written()
            action, number = broadcast_ints(self._decide(written) if self.ranks.leads else [0, 0])
            if action == Action.TRAIN:
                self._train(self._batch(number))
            elif action == Action.PUBLISH:
                self._publish()
            elif action == Action.CHECKPOINT:
                self.saving.save(self.step)
            elif action == Action.SETTLE:
                self.saving.settle()
            elif action == Action.END:
                self.saving.finish(self.step)
                return

    def _decide(self, written: bool) -> list[int]:
        """[action, batch number] on rank 0. What is `written` of a checkpoint, then members that lack the current
        version, come before the next batch."""
        if written:
            return [Action.SETTLE, 0]
        assert self.distribution is not None
        if self.step >= self.catch_up_step:
            if self.distribution.waiting(self.step):
                return [Action.PUBLISH, 0]
            if self.saving.is_wanted(self.step):
                return [Action.CHECKPOINT, 0]
        started = time.monotonic()
        batches = self.control.call(self.bus.batches.read(self.step - 1, block_s=_WAIT_S, count=1))
        self._waited_s += time.monotonic() - started
        if not batches:
            # Where payloads fill the memory the generators stand still, so no batch comes until some are freed.
            return [Action.CHECKPOINT if self.saving.must_free(self.step) else Action.IDLE, 0]
        if batches[0].end:
            return [Action.END, 0]
        self._next = batches[0]
        return [Action.TRAIN, batches[0].batch]

    def _batch(self, number: int) -> pb.TrainBatch:
        """The batch rank 0 decided on, read by each rank for itself."""
        batch, self._next = self._next, None
        if batch is None:
            batches = self.control.call(self.bus.batches.read(number - 1, block_s=_PEER_WAIT_S, count=1))
            if not batches:
                raise RuntimeError(f"batch {number} is not in the batch log, though rank 0 has read it")
            (batch,) = batches
        if batch.batch != number or number != self.step:
            raise RuntimeError(f"the batch log gave batch {batch.batch}, the next to train is {self.step}")
        return batch

    # -- one step

    def _train(self, batch: pb.TrainBatch) -> None:
        waited, self._waited_s = self._waited_s, 0.0
        # Beside the training, as it may take a second; what was trained must not leave the learner before.
        on_disk = self.control.begin(self.bus.batches.sync_to_disk()) if self.ranks.leads else None
        metrics = self.trainer.train(batch, partial(self._fetch, batch))
        found = fingerprint(self.trainer.engine)
        if on_disk is not None:
            on_disk.result()
        self.step = batch.batch + 1
        if self.ranks.leads:
            self.control.call(announce(self.bus, f"{self.epoch}.{self.step}"))
        self._unpublished = True
        metrics["learner_wait_s"] = waited
        metrics["weight_sync_s"] = metrics["weight_pause_s"] = 0.0
        if self.step >= self.catch_up_step:
            metrics |= self._publish()
        now = time.monotonic()
        metrics["step_s"], self._step_ended = now - self._step_ended, now
        if self.replay is not None:
            observe_step(self.step, metrics, published=self.step >= self.catch_up_step)
            self.replay.trained(batch.batch, found)
            self._record(batch, metrics, found)
            self._alert_skipped(batch.batch, metrics["skipped_updates"])
        log.info("step %d: loss %.4f, trained in %.2f s", self.step, metrics["loss"], metrics["train_s"])
        if self.saving.is_due(self.step):
            self.saving.save(self.step)

    def _record(self, batch: pb.TrainBatch, metrics: dict[str, float], fingerprint_after: str) -> None:
        version = pb.Version(incarnation=self.epoch, step=self.step)
        report = pb.StepReport(
            batch=batch.batch,
            version=version,
            metrics=metrics,
            fingerprint=fingerprint_after,
            ranks=self.ranks.world_size,
        )
        groups = [group.group_id for group in batch.groups]
        self.control.call(self.bus.batches.record_step(report, groups, self.epoch))

    def _alert_skipped(self, batch: int, skipped: float) -> None:
        if not skipped:
            return
        message = f"{skipped:g} updates of batch {batch} were left out: their gradient was not finite"
        log.error("%s", message)
        alert = Alert(cause="gradient_not_finite", batch=batch, message=message)
        self.control.call(self.bus.runs.emit(alert))

    def _fetch(self, batch: pb.TrainBatch, records: dict[int, pb.TrainSample]) -> dict[int, TrainingSample]:
        """This rank's samples. One that cannot be used is left out as a dead letter; one alert tells of them all."""
        policy = self.trainer.engine.module
        samples, problems = self.control.call(fetch_samples(self.bus, records, policy.vocabulary, policy.masked))
        for index, problem in problems.items():
            key = records[index].payload_key
            group, _ = flat_samples(batch)[index]
            log.error("sample %s is left out of the batch: %s", key, problem, extra={"group": group.group_id})
            detail, reason = f"{key}: {problem}", FailureReason.PAYLOAD_UNUSABLE
            self.control.call(self.bus.groups.fail(group.group_id, reason, detail))
        if problems:
            index, problem = next(iter(problems.items()))
            message = f"{len(problems)} of {len(records)} responses are left out of the batch; the first: {problem}"
            key = records[index].payload_key
            alert = Alert(cause="payload_unusable", payload_key=key, batch=batch.batch, message=message)
            self.control.call(self.bus.runs.emit(alert))
        return samples

    def _publish(self) -> dict[str, float]:
        """Bring every joined member to the current version; all ranks take part."""
        started = time.monotonic()
        assert self.distribution is not None
        merges = self.spec.lora.rank is not None and not self.serves_adapter
        pause_s = self.distribution.publish(self.step, measures=merges and self.ranks.leads)
        if not self.ranks.leads:
            return {}
        if pause_s is not None and self._unpublished:
            self._unpublished = False
            log.info("version %d.%d is published", self.epoch, self.step)
        metrics = {"weight_sync_s": time.monotonic() - started, "weight_pause_s": pause_s or 0.0}
        return metrics | (self._measure_rounding() if merges else {})

    def _measure_rounding(self) -> dict[str, float]:
        """What merging has left of the LoRA update that was sent last; an alert where that is too little."""
        share = self.buckets.rounding.surviving_share
        if share < _SURVIVING_SHARE and not self._told_of_rounding:
            self._told_of_rounding = True
            self._tell_of_rounding(share)
        return {"lora_surviving_share": share}

    def _tell_of_rounding(self, share: float) -> None:
        apart = "lora.serving: adapter, or " if self.spec.lora.may_serve_adapter(self.model_type) else ""
        cure = f"{apart}model.dtype: float32"
        message = (
            f"merged into {self.spec.model.dtype} weights, {share:.0%} of the LoRA update survives the rounding, so "
            f"generators hardly follow the learner (lora_surviving_share); set {cure}"
        )
        log.warning("%s", message)
        self.control.call(self.bus.runs.emit(Alert(cause="lora_rounded_away", message=message)))
