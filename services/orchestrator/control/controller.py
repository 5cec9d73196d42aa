"""The run's control loop: scored groups in, batches and prompts out, steps followed, the end brought about."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Literal

from dapo.algo.batches import ScoredGroup, build_batch
from dapo.algo.dynamic_sampling import KeepRate
from dapo.algo.evaluation import reason_to_stop
from dapo.algo.pacing import Cut, Issue, Pacing
from dapo.algo.statistics import summarise_batch, summarise_graded
from dapo.bus import Delivery, GroupRecord
from dapo.bus.ledger import OPEN, RUN_COMPLETE, GroupState
from dapo.bus.parts.decisions import Ending
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import Alert, Emit, StepFinished
from dapo.data import Dataset
from dapo.spec.run import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.control.alerts import RunAlerts
from services.orchestrator.control.evaluator import Evaluator
from services.orchestrator.control.inbox import Inbox, Item, Memory, Published, Scored, Step
from services.orchestrator.control.issuer import NotRequeued, PromptIssuer, number_of
from services.orchestrator.control.settler import Settler
from services.orchestrator.control.step_metrics import GeneratorMeter, learner_idle
from services.orchestrator.records.recorder import Recorder

log = logging.getLogger(__name__)

_SETTLED_AT_ONCE = 32
_READ_AT_ONCE = 256


class Controller:
    """Steers one run; `run` returns once the learner has reported the last step and the last evaluation is over.
    The last step may come before `training.steps`: `ending` then says why.

    Parts:
    - Inbox: follows Redis and puts what is new into one queue, which one task (`_steer`) empties, so decisions are
      taken in one place and in order;
    - `_pacing` (dapo.algo.pacing): how many prompts may be issued, and when a batch is due;
    - `_issuer` (PromptIssuer): prompts from the data to the bus;
    - `_settler` (Settler): scored groups, kept or filtered;
    - `_evaluator` (Evaluator): its groups and versions are handed to it;
    - `_alerts` (RunAlerts): what a person should be told, and whether there is no hope; `_recorder`: metrics.jsonl.
    The decisions themselves are dapo.algo's; every write carries this orchestrator's fencing epoch.

    Invariants: each scored group is settled once, as kept or filtered on raw correctness; batches are cut in order,
    each group into one batch at most; after the last batch what is still open is closed as surplus, nothing is issued.

    Restart: what was decided is in Redis, written in the script that took effect, and `_take_up` builds pacing, keep
    rate, frontier, ready groups, the metrics of unfinished steps and an early end from it; rows that are written are
    in metrics.jsonl. In memory alone are the rates since the last row.

    Waits without limit for what the inbox brings; at least once a second it brings the memory in use.
    """

    def __init__(
        self,
        bus: OrchestratorBus,
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
        self._recorder = recorder
        self._evaluator = evaluator
        self._emit = emit
        self._change_state = change_state
        keep_rate = KeepRate()
        self._pacing = Pacing(
            prompts_per_step=spec.training.prompts_per_step,
            max_staleness=spec.asynchrony.max_staleness,
            steps=spec.training.steps,
            keep_rate=keep_rate,
            confidence=spec.asynchrony.keep_rate_confidence,
        )
        self._keep_rate = keep_rate
        self._settler = Settler(bus, spec, recorder.samples)
        self._issuer = PromptIssuer(bus, spec, dataset, self._pacing, self._settler.resting, emit)
        self._alerts = RunAlerts(spec, keep_rate, self._settler.streak, emit)
        self.ending: Ending | None = None
        self._epoch = 0
        self._version: int | None = None
        self._ready: dict[str, ScoredGroup] = {}
        self._passed: dict[str, ScoredGroup] = {}
        self._cut_metrics: dict[int, dict[str, float]] = {}
        rows = recorder.rows
        self._meter = GeneratorMeter(rows[-1]["generated_tokens"] or 0 if rows else 0)
        self._began_s = time.monotonic() - (rows[-1]["time_s"] if rows else 0.0)
        self._draining = False
        self._steps_done = len(rows)

    @property
    def steps(self) -> int:
        """Of the run; fewer than `training.steps` once it is to end early."""
        return self._pacing.steps

    @property
    def trained(self) -> bool:
        """The learner has reported its last step."""
        return self._steps_done >= self.steps

    @property
    def _evaluates_only(self) -> bool:
        return self._spec.training.steps == 0

    async def run(self, epoch: int) -> None:
        """`epoch`: the orchestrator's. Raises BusError when Redis fails or this orchestrator is fenced off,
        ControllerError for other data than the run's."""
        self._epoch = epoch
        await self._take_up()
        inbox = Inbox(self._bus, self._emit, evaluates_only=self._evaluates_only, steps_done=self._steps_done)
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

    async def requeue(self, group_id: str) -> None:
        """Issue the prompt of a failed group once more, as a new group. Raises NotRequeued, BusError."""
        if self._pacing.all_cut or self._version is None:
            raise NotRequeued(f"group {group_id} is not issued once more: the run issues no prompts at this time")
        await self._issuer.requeue(await self._bus.groups.facts(group_id), self._epoch)

    async def _take_up(self) -> None:
        """Go on where an orchestrator before this one has left the run, if there was one."""
        decided = await self._bus.decisions.read()
        # Rows may be missing, after a power cut; of the steps that a checkpoint covers no report comes any more.
        self._steps_done = max(self._steps_done, decided.base)
        for kept in decided.history:
            self._keep_rate.observe(kept)
        open_groups, passed = await self._known(decided.open_groups), await self._known(decided.passed)
        self._settler.take_up(decided)
        self.ending = decided.ending
        if self.ending is not None:
            self._pacing.end_after(self.ending.steps)
        ready = [record for record in open_groups if record.state == GroupState.KEPT]
        in_flight = [record for record in open_groups if record.state in OPEN - {GroupState.KEPT}]
        self._ready = {record.group_id: _scored(record) for record in ready}
        self._passed = {record.group_id: _scored(record) for record in passed}
        version = await self._bus.weights.published_version()
        self._pacing.take_up(
            cut=min(decided.cut, self._pacing.steps),
            trained=decided.trained,
            version=version.step if version is not None else 0,
            in_flight=_issues(in_flight),
            ready=_issues(ready),
            passed=_issues(passed),
        )
        self._issuer.take_up(decided)
        self._cut_metrics = decided.cut_metrics
        await self._pass_over(self._pacing.expired())
        recorded = [(row["step"], row["set"]) for row in self._recorder.evaluations]
        await self._evaluator.take_up(self._epoch, decided, recorded)
        if self.ending is not None:
            await self._end_evaluations(self.ending)

    async def _known(self, group_ids: Sequence[str]) -> list[GroupRecord]:
        found: list[GroupRecord] = []
        for start in range(0, len(group_ids), _READ_AT_ONCE):
            found += await self._bus.groups.read_known(group_ids[start : start + _READ_AT_ONCE])
        return found

    async def _steer(self, items: asyncio.Queue[Item]) -> None:
        while not self.trained or self._version is None or self._evaluator.busy:
            await self._handle(await items.get())
            while not items.empty():
                await self._handle(items.get_nowait())
            if not self._evaluates_only:
                await self._advance()
            await self._evaluator.issue(training=not (self.trained or self._draining))
        if not self._evaluates_only:
            # Not before: a generator whose engine is lost while it evaluates needs the learner for its weights.
            await self._bus.batches.cut(pb.TrainBatch(batch=self._pacing.steps, end=True), self._epoch)

    async def _handle(self, item: Item) -> None:
        match item:
            case Scored(deliveries):
                await self._judge(deliveries)
            case Step(report):
                await self._finish_step(report)
            case Published(step):
                await self._publish(step)
            case Memory(used):
                await self._alerts.check_memory(used)

    async def _publish(self, step: int) -> None:
        if self._version is None:
            await self._change_state("running")
            # The baseline of the first step's rates.
            self._meter.measure(await self._bus.weights.members(), time.monotonic())
        self._version = step
        self._pacing.published(step)
        await self._evaluator.begin_if_due(step)

    async def _judge(self, deliveries: list[Delivery]) -> None:
        """Settle scored groups; failed ones make room for others."""
        records = await self._bus.groups.read_many([delivery.data.decode() for delivery in deliveries])
        pairs = list(zip(deliveries, records, strict=True))
        for start in range(0, len(pairs), _SETTLED_AT_ONCE):
            await self._settle(pairs[start : start + _SETTLED_AT_ONCE])
        await self._alerts.check_keep_rate()
        hopeless = await self._alerts.check_hopeless()
        if hopeless and not self._pacing.all_cut:
            await self._end_early("failed", hopeless)

    async def _settle(self, pairs: Sequence[tuple[Delivery, GroupRecord]]) -> None:
        if evaluated := [pair for pair in pairs if pair[1].task.evaluation]:
            await asyncio.gather(*(self._evaluator.take(*pair) for pair in evaluated))
            self._recorder.note_progress()
        training = [pair for pair in pairs if not pair[1].task.evaluation]
        for record, state in await self._settler.settle(training, self._epoch):
            group_id = record.group_id
            if state == "failed":
                # A predecessor may have learnt of it: its successor finds no such group open.
                if self._pacing.is_in_flight(group_id):
                    self._pacing.failed(group_id)
                await self._alerts.group_failed(group_id, record.reason)
                continue
            self._alerts.group_graded()
            if state == "kept":
                self._ready[group_id] = _scored(record)
                self._pacing.kept(group_id)
            else:
                self._passed[group_id] = _scored(record)
                self._pacing.dropped(group_id)

    async def _advance(self) -> None:
        """Cut every batch that is due; then end where nothing follows, or issue what pacing admits."""
        if self._version is None or self._draining:
            return
        while (cut := self._pacing.cut()) is not None:
            await self._cut(cut)
        rule = self._spec.evaluation.early_stopping
        if not self._pacing.all_cut and (why := reason_to_stop(rule, self._recorder.evaluations)):
            await self._end_early("succeeded", why)
        if self._pacing.all_cut:
            await self._drain()
        elif self._issuer.waiting:
            await self._issuer.send(self._epoch)
        elif not self._evaluator.holds_training and (count := self._admissible()) > 0:
            await self._issuer.issue(count, self._version, self._epoch)

    async def _cut(self, cut: Cut) -> None:
        groups = [self._ready.pop(group_id) for group_id in cut.groups]
        # One whose record had left the archive before a successor read it is missing here.
        graded = groups + [self._passed.pop(group_id) for group_id in cut.passed if group_id in self._passed]
        metrics = {
            **summarise_graded(graded, dynamic_sampling=self._spec.algorithm.dynamic_sampling),
            **summarise_batch(cut.batch, groups),
        }
        batch = build_batch(cut.batch, groups, self._spec)
        await self._bus.batches.cut(batch, self._epoch, metrics=metrics, passed=cut.passed)
        self._cut_metrics[cut.batch] = metrics
        await self._pass_over(cut.surplus)

    async def _pass_over(self, group_ids: Sequence[str]) -> None:
        """Kept groups that no later batch may use."""
        for group_id in group_ids:
            self._passed[group_id] = self._ready.pop(group_id)
            reason = RUN_COMPLETE if self._pacing.all_cut else "too old for any later batch"
            await self._bus.groups.settle(None, group_id, "surplus", reason, self._epoch)

    def _admissible(self) -> int:
        """While memory is crowded, a batch in training comes first: its checkpoint frees memory. Without one only more
        prompts lead to a step, so those that the next batch wants are issued."""
        if not self._alerts.crowded:
            return self._pacing.admissible()
        return 0 if self._pacing.cut_untrained else self._pacing.admissible(for_next_alone=True)

    async def _end_early(self, state: Literal["succeeded", "failed"], why: str) -> None:
        """No batch follows those that are cut: they are trained, and the last checkpoint is written, as at any end."""
        steps = self._pacing.batches_cut
        self.ending = ending = Ending(steps, state, why)
        await self._bus.decisions.end(ending, self._epoch)
        self._pacing.end_after(steps)
        when = f"with step {steps}" if steps else "before its first step"
        await self._emit(Alert(cause="ends_early", message=f"the run ends {when}: {why}"))
        await self._end_evaluations(ending)

    async def _end_evaluations(self, ending: Ending) -> None:
        if ending.state == "succeeded":
            await self._evaluator.end_with(ending.steps)
        else:
            await self._evaluator.give_up("the run has failed")

    async def _drain(self) -> None:
        """The last batch is cut: close what is still on its way."""
        self._draining = True
        await self._change_state("draining")
        closed = await self._bus.groups.close_open(RUN_COMPLETE, self._epoch)
        log.info("last batch cut, %d groups closed", closed)

    async def _finish_step(self, report: pb.StepReport) -> None:
        self._pacing.trained(report.batch)
        self._steps_done = report.batch + 1
        reported = dict(report.metrics)
        now_s = time.monotonic()
        measured = self._meter.measure(await self._bus.weights.members(), now_s)
        row = {
            "step": report.batch + 1,
            "time_s": round(now_s - self._began_s, 3),
            "policy_version": report.version.step,
            "fingerprint": report.fingerprint,
            **self._cut_metrics.pop(report.batch, {}),
            **measured,
            **reported,
            "learner_idle": learner_idle(reported),
            "rested_prompts": self._issuer.rested,
            "evaluations": self._evaluator.fresh(),
            "ledger": await self._bus.groups.ledger(),
        }
        await self._recorder.secure()
        await self._emit(StepFinished(row=self._recorder.record_step(row)))
        if self.trained:
            # Its version was published before the step was reported, but perhaps not seen yet.
            await self._evaluator.begin_if_due(report.version.step)


def _scored(record: GroupRecord) -> ScoredGroup:
    return ScoredGroup(record.group_id, record.task.issued_version, record.grades)


def _issues(records: Iterable[GroupRecord]) -> dict[str, Issue]:
    return {record.group_id: Issue(record.task.issued_version, number_of(record.group_id)) for record in records}
