"""The run's control loop: scored groups in, batches and prompts out, steps followed, the end brought about.

Followers read Redis and put what they find into one inbox; one task empties it, so every decision is taken in one
place and in order. The decisions themselves are dapo.algo's: which groups are kept, how many prompts may be issued,
when a batch is cut. All writes carry this orchestrator's fencing epoch.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from dapo.algo.batches import ScoredGroup, build_batch
from dapo.algo.dynamic_sampling import KeepRate, is_informative
from dapo.algo.frontier import Frontier
from dapo.algo.pacing import Pacing
from dapo.algo.statistics import summarise_batch, summarise_graded
from dapo.bus import Bus, BusFull, Delivery, Outcome
from dapo.bus.parts.groups import GroupRecord
from dapo.data import Dataset
from dapo.spec.budget import ISSUE_SHARE, MIB
from dapo.spec.run import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.control.evaluator import Evaluator
from services.orchestrator.control.inbox import ROLE, Emit, Inbox, Item, Memory, Published, Scored, Step
from services.orchestrator.control.step_metrics import GeneratorMeter, learner_idle
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.records.samples import make_sample

log = logging.getLogger(__name__)

_SETTLED_AT_ONCE = 32
# Failed groups in a row, without one that was graded, after which the run gives up: this many batches' worth.
_HOPELESS_BATCHES = 4


class ControllerError(RuntimeError):
    """The run cannot go on, e.g. because every group fails."""


class Controller:
    """Steers one run; `run` returns once the learner has reported the last step."""

    def __init__(
        self,
        bus: Bus,
        spec: RunSpec,
        dataset: Dataset,
        *,
        recorder: Recorder,
        evaluator: Evaluator,
        emit: Emit,
        change_state: Callable[[str], Awaitable[None]],
    ) -> None:
        """`change_state` gets running, draining."""
        self._bus = bus
        self._spec = spec
        self._dataset = dataset
        self._recorder = recorder
        self._evaluator = evaluator
        self._emit = emit
        self._change_state = change_state
        self._frontier = Frontier(dataset.parts, seed=spec.seed, shuffle=spec.data.shuffle)
        self._keep_rate = KeepRate()
        self._pacing = Pacing(
            prompts_per_step=spec.training.prompts_per_step,
            max_staleness=spec.asynchrony.max_staleness,
            steps=spec.training.steps,
            keep_rate=self._keep_rate,
            confidence=spec.asynchrony.keep_rate_confidence,
        )
        self._epoch = 0
        self._issued = 0
        self._version: int | None = None
        self._ready: dict[str, ScoredGroup] = {}
        self._window: list[ScoredGroup] = []
        self._graded: dict[str, float] = {}
        self._unissued: list[pb.PromptTask] = []
        self._crowded = False
        self._full = False
        self._cut_metrics: dict[int, dict[str, float]] = {}
        self._meter = GeneratorMeter()
        self._began_s = time.monotonic()
        self._draining = False
        self._steps_done = 0
        self._failures_in_a_row = 0
        self._alerted_keep_rate = False

    @property
    def trained(self) -> bool:
        """The learner has reported its last step."""
        return self._steps_done >= self._spec.training.steps

    @property
    def _evaluates_only(self) -> bool:
        return self._spec.training.steps == 0

    async def run(self) -> None:
        """Raises BusError when Redis fails or this orchestrator is fenced off, ControllerError when all groups fail."""
        self._epoch = await self._bus.acquire_epoch(ROLE)
        inbox = Inbox(self._bus, self._emit, evaluates_only=self._evaluates_only)
        steering = asyncio.create_task(self._steer(inbox.items))
        following = asyncio.create_task(inbox.run())
        try:
            done, _ = await asyncio.wait({steering, following}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in (steering, following):
                task.cancel()
            await asyncio.wait({steering, following})
            await self._evaluator.close()

    async def _steer(self, items: asyncio.Queue[Item]) -> None:
        while not self.trained or self._version is None or self._evaluator.busy:
            await self._handle(await items.get())
            while not items.empty():
                await self._handle(items.get_nowait())
            if not self._evaluates_only:
                await self._advance()
            await self._evaluator.issue(self._epoch, training=not (self.trained or self._draining))
        if not self._evaluates_only:
            # Not before: a generator whose engine is lost while it evaluates needs the learner for its weights.
            await self._bus.cut_batch(pb.TrainBatch(batch=self._spec.training.steps, end=True), self._epoch)

    async def _handle(self, item: Item) -> None:
        match item:
            case Scored(deliveries):
                await self._judge(deliveries)
            case Step(report):
                await self._finish_step(report)
            case Published(step):
                await self._publish(step)
            case Memory(used):
                await self._watch_memory(used)

    async def _publish(self, step: int) -> None:
        if self._version is None:
            await self._change_state("running")
            # The baseline of the first step's rates.
            self._meter.measure(await self._bus.members(), time.monotonic())
        self._version = step
        self._pacing.published(step)
        await self._evaluator.begin_if_due(step)

    async def _judge(self, deliveries: list[Delivery]) -> None:
        """Settle scored groups as kept or filtered; failed ones make room for others."""
        records = await self._bus.read_groups([delivery.data.decode() for delivery in deliveries])
        pairs = list(zip(deliveries, records, strict=True))
        for start in range(0, len(pairs), _SETTLED_AT_ONCE):
            await asyncio.gather(*(self._settle(*pair) for pair in pairs[start : start + _SETTLED_AT_ONCE]))
        await self._watch_keep_rate()

    async def _settle(self, delivery: Delivery, record: GroupRecord) -> None:
        group_id = record.task.group_id
        if record.task.evaluation:
            await self._evaluator.take(delivery, record, self._epoch)
            return
        if record.state == "failed":
            await self._bus.settle_group(delivery, group_id, "surplus", "failed", self._epoch)
            self._pacing.failed(group_id)
            await self._note_failure(group_id, record.reason)
            return
        kept = not self._spec.algorithm.dynamic_sampling or is_informative([grade.correct for grade in record.grades])
        state, reason = ("kept", "") if kept else ("filtered", _uniform(record.grades))
        await self._keep_samples(record, state)
        if await self._bus.settle_group(delivery, group_id, state, reason, self._epoch) != Outcome.WRITTEN:
            return
        self._failures_in_a_row = 0
        group = ScoredGroup(group_id, record.task.issued_version, record.grades)
        self._window.append(group)
        if kept:
            self._ready[group_id] = group
            self._pacing.kept(group_id)
        else:
            self._pacing.dropped(group_id)

    async def _keep_samples(self, record: GroupRecord, outcome: str) -> None:
        """Some groups of each step for people to read, before the payloads of a filtered one are deleted."""
        archive = self._recorder.samples
        if archive.wants(record.task.issued_version, outcome):
            texts = await self._bus.get_payloads([grade.completion.text_key for grade in record.grades])
            try:
                archive.add(make_sample(record, texts, outcome))
            except OSError as error:
                log.warning("group %s is not kept in samples.jsonl: %s", record.group_id, error)

    async def _note_failure(self, group_id: str, reason: str) -> None:
        self._failures_in_a_row += 1
        if (self._failures_in_a_row - 1) % self._spec.training.prompts_per_step == 0:
            message = f"group {group_id} failed: {reason} ({self._failures_in_a_row} in a row)"
            await self._emit("alert", {"group_id": group_id, "message": message})
        if self._failures_in_a_row >= _HOPELESS_BATCHES * self._spec.training.prompts_per_step:
            raise ControllerError(
                f"the last {self._failures_in_a_row} groups all failed, the last one ({group_id}) with the reason "
                f"{reason!r}: see the dead letters and the generators' logs"
            )

    async def _watch_keep_rate(self) -> None:
        """One alert each time the measured keep rate sinks below the spec's bound."""
        bound = self._spec.asynchrony.low_keep_rate_alert
        low = self._keep_rate.is_low(bound)
        if low and not self._alerted_keep_rate:
            rate = self._keep_rate.mean
            message = f"dynamic sampling keeps only {rate:.1%} of the groups (alert below {bound:.1%})"
            await self._emit("alert", {"message": message, "keep_rate": rate})
        self._alerted_keep_rate = low

    async def _advance(self) -> None:
        """Cut every batch that is due, then issue what pacing admits."""
        if self._version is None or self._draining:
            return
        while (cut := self._pacing.cut()) is not None:
            await self._cut(cut.batch, list(cut.groups), list(cut.surplus))
        if self._pacing.all_cut:
            await self._drain()
        elif self._unissued:
            await self._send_prompts()
        elif not self._must_hold_back() and (count := self._pacing.admissible()) > 0:
            await self._issue(count)

    async def _cut(self, batch: int, group_ids: list[str], surplus: list[str]) -> None:
        groups = [self._ready.pop(group_id) for group_id in group_ids]
        await self._bus.cut_batch(build_batch(batch, groups, self._spec), self._epoch)
        for group_id in surplus:
            del self._ready[group_id]
            reason = "run complete" if self._pacing.all_cut else "too old for any later batch"
            await self._bus.settle_group(None, group_id, "surplus", reason, self._epoch)
        # Of two batches cut together the second finds nothing newly graded: what was measured last still holds.
        dynamic_sampling = self._spec.algorithm.dynamic_sampling
        self._graded = summarise_graded(self._window, dynamic_sampling=dynamic_sampling) or self._graded
        self._cut_metrics[batch] = {**self._graded, **summarise_batch(batch, groups)}
        self._window = []

    async def _issue(self, count: int) -> None:
        tasks = [self._next_task() for _ in range(count)]
        for task in tasks:
            self._pacing.issued(task.group_id)
        self._unissued = tasks
        await self._send_prompts()

    async def _send_prompts(self) -> None:
        """Issue what was drawn from the data; where Redis is full, the same prompts are tried again later."""
        try:
            await self._bus.issue_groups(self._unissued, self._epoch)
        except BusFull as error:
            if not self._full:
                await self._emit("alert", {"message": f"prompts wait until memory is free: {error}"})
            self._full = True
        else:
            self._unissued, self._full = [], False

    def _must_hold_back(self) -> bool:
        """Without a batch in training no step, and so no checkpoint, would ever free memory: then the run goes on."""
        return self._evaluator.holds_training or (self._crowded and self._pacing.cut_untrained > 0)

    async def _watch_memory(self, used: int) -> None:
        """One alert each time the payloads' memory rises above the share at which no more prompts are issued."""
        memory_mib = self._spec.resources.redis.memory_mib
        crowded = used > ISSUE_SHARE * memory_mib * MIB
        if crowded and not self._crowded:
            message = (
                f"Redis holds {used / MIB:.0f} MiB, above {ISSUE_SHARE:.0%} of resources.redis.memory_mib = "
                f"{memory_mib}: no new prompts until a checkpoint frees memory"
            )
            await self._emit("alert", {"message": message})
        self._crowded = crowded

    def _next_task(self) -> pb.PromptTask:
        item = self._frontier.next()
        row = self._dataset[item.row]
        task = pb.PromptTask(
            group_id=f"g{self._issued:010d}",
            epoch=item.epoch,
            cursor=item.cursor,
            row_id=row.row_id,
            prompt=row.prompt,
            gold=row.gold,
            grader=row.grader or self._spec.reward.grader,
            group_size=self._spec.sampling.group_size,
            issued_version=self._version or 0,
        )
        self._issued += 1
        return task

    async def _drain(self) -> None:
        """The last batch is cut: close what is still on its way."""
        self._draining = True
        await self._change_state("draining")
        closed = await self._bus.close_open_groups("run complete", self._epoch)
        log.info("last batch cut, %d groups closed", closed)

    async def _finish_step(self, report: pb.StepReport) -> None:
        self._pacing.trained(report.batch)
        self._steps_done += 1
        reported = dict(report.metrics)
        now_s = time.monotonic()
        measured = self._meter.measure(await self._bus.members(), now_s)
        row = {
            "step": report.batch + 1,
            "time_s": round(now_s - self._began_s, 3),
            "policy_version": report.version.step,
            **self._cut_metrics.pop(report.batch, {}),
            **measured,
            **reported,
            "learner_idle": learner_idle(reported),
            "evaluations": self._evaluator.fresh(),
            "ledger": await self._bus.ledger_counts(),
        }
        await self._emit("step", self._recorder.record_step(row))
        if self.trained:
            # Its version was published before the step was reported, but perhaps not seen yet.
            await self._evaluator.begin_if_due(report.version.step)


def _uniform(grades: list[pb.Grade]) -> str:
    return "all correct" if all(grade.correct for grade in grades) else "all wrong"
