"""Evaluates versions of the policy on the run's own generators, beside the training."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from dapo.algo.evaluation import measure
from dapo.bus import BusFull, Delivery, GroupRecord
from dapo.bus.keys import EVALUATIONS, PROMPTS
from dapo.bus.parts.decisions import Decided
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import Alert, Emit, EvaluationFinished, EvaluationProgress
from dapo.records.samples import Sample
from dapo.spec.budget import evaluated_prompts
from dapo.spec.run import RunSpec
from dapo.spec.tree.graders import UnknownGrader, find_grader
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.control.evaluation import EvaluationProblem, EvaluationSetting, VersionEvaluation
from services.orchestrator.records.samples import make_sample

log = logging.getLogger(__name__)

_ISSUED_AT_ONCE = 64
_PROGRESS_S = 1.0

Record = Callable[[Mapping[str, Any], Sequence[Sample]], Awaitable[None]]


class Evaluator:
    """Evaluates the versions that are due.

    The controller drives it: `begin_if_due` tells it of a version, `issue` gives it room to send prompts, `take` brings
    it scored groups, `busy` says whether an evaluation goes on.

    The evaluation under way is a VersionEvaluation; measuring its last group starts `_finish`, which measures the sets,
    records them and begins the next one.

    Invariants: one evaluation goes on at a time, and of versions that fall due meanwhile the newest comes next; every
    problem of a set ends as measured or as failed; a problem's responses are never trained on. While the base model is
    evaluated no prompt is issued for training, so its figures are those of version 0 alone, as the last version's are.
    Between them training goes on, and an evaluation says which versions sampled it.

    Restart: which versions were begun is in Redis, finished sets are in evaluations.jsonl; what was under way begins
    anew with the sets that are left (`take_up`).
    """

    def __init__(
        self, bus: OrchestratorBus, spec: RunSpec, settings: Sequence[EvaluationSetting], *, record: Record, emit: Emit
    ) -> None:
        """`record` stores the measures of one set and its samples."""
        self._bus = bus
        self._spec = spec
        self._settings = settings
        self._record = record
        self._emit = emit
        self._epoch = 0
        self._issued = 0
        self._recorded: set[tuple[int, str]] = set()
        self._current: VersionEvaluation | None = None
        self._next: int | None = None
        self._newest = -1
        self._last_step = spec.training.steps
        self._fresh: dict[str, dict[str, float]] = {}
        self._finishing: asyncio.Task[None] | None = None
        self._told_s = 0.0
        self._graders = spec.named_graders
        self._stream = EVALUATIONS if spec.evaluation.dedicated_generator else PROMPTS

    async def take_up(self, epoch: int, decided: Decided, recorded: Iterable[tuple[int, str]]) -> None:
        """Before anything else: the orchestrator's epoch, what it finds decided, and step and set of each evaluation
        that is on record."""
        self._epoch, self._recorded = epoch, set(recorded)
        if decided.last_evaluation_group is not None:
            self._issued = int(decided.last_evaluation_group[1:]) + 1
        await self._bus.groups.close(decided.open_evaluation_groups, "the evaluation began anew", epoch)
        if standing := decided.evaluations:
            self._newest = standing["newest"]
            for step in (standing["current"], standing["next"]):
                if step is not None and self._current is None:
                    await self._begin(step)
                elif step is not None:
                    self._next = step

    async def _save(self) -> None:
        current = None if self._current is None else self._current.step
        standing = {"newest": self._newest, "current": current, "next": self._next}
        await self._bus.decisions.save_evaluations(standing, self._epoch)

    @property
    def busy(self) -> bool:
        return self._current is not None

    @property
    def holds_training(self) -> bool:
        """The base model is being evaluated."""
        return self._current is not None and self._current.step == 0

    def fresh(self) -> dict[str, dict[str, float]]:
        """Step and avg@k of each set that was finished since the last call; of two evaluations the later."""
        found, self._fresh = self._fresh, {}
        return found

    async def begin_if_due(self, step: int) -> None:
        """Version `step` is served; of two that follow each other quickly the first may not have been told of."""
        first, self._newest = self._newest + 1, max(step, self._newest)
        for passed in range(first, step + 1):
            if self._settings and self._is_due(passed):
                await self._begin_or_wait(passed)
        if self._settings and first <= step:
            # Also where none was due: another spec may have them due at other steps, and may not look back.
            await self._save()

    async def end_with(self, step: int) -> None:
        """The run's last version is that of `step`, which may be served already."""
        self._last_step = step
        under_way = [self._next, self._current.step if self._current is not None else None]
        if self._settings and step <= self._newest and step not in under_way and self._is_due(step):
            await self._begin_or_wait(step)
            await self._save()

    async def give_up(self, why: str) -> None:
        """Evaluate nothing more, and leave what is under way."""
        self._settings, self._next = [], None
        await self.close()
        if self._current is not None:
            await self._bus.groups.close(list(self._current.in_flight), why, self._epoch)
            self._current = None

    async def _begin_or_wait(self, step: int) -> None:
        if self._current is None:
            await self._begin(step)
            return
        if self._next is not None:
            message = f"the evaluation of step {self._next} is left out: that of step {self._current.step} goes on"
            await self._emit(Alert(message=f"{message}; raise evaluation.every_steps or prompts_in_flight"))
        self._next = step

    def _is_due(self, step: int) -> bool:
        evaluation = self._spec.evaluation
        if step == self._last_step:
            return evaluation.at_end or self._spec.training.steps == 0
        if step == 0:
            return evaluation.at_start
        return evaluation.every_steps is not None and step % evaluation.every_steps == 0

    async def _begin(self, step: int) -> None:
        settings = [one for one in self._settings if (step, one.name) not in self._recorded]
        if settings:
            self._current = VersionEvaluation(step, settings)
            await self._tell_progress(self._current)

    async def _tell_progress(self, current: VersionEvaluation) -> None:
        self._told_s = time.monotonic()
        await self._emit(EvaluationProgress(step=current.step, done=current.done, problems=current.problems))

    async def close(self) -> None:
        """Nothing of an evaluation goes on afterwards."""
        if self._finishing is not None:
            self._finishing.cancel()
            await asyncio.wait({self._finishing})

    async def issue(self, *, training: bool) -> None:
        """Send as many prompts as may be in flight; where Redis is full, they wait. `training` goes on beside it."""
        if self._finishing is not None and self._finishing.done():
            self._finishing.result()
            self._finishing = None
        current = self._current
        if current is None:
            return
        room = self._room(training) - len(current.in_flight)
        while current.waiting and room > 0:
            count = min(room, _ISSUED_AT_ONCE, len(current.waiting))
            tasks = {f"e{self._issued + at:010d}": current.waiting[at] for at in range(count)}
            try:
                prompts = [self._task(name, one, current.step) for name, one in tasks.items()]
                await self._bus.groups.issue(prompts, self._epoch, stream=self._stream)
            except BusFull as error:
                log.warning("prompts of the evaluation wait until memory is free: %s", error)
                return
            for name, problem in tasks.items():
                current.in_flight[name] = problem
                current.waiting.popleft()
            self._issued += count
            room -= count

    def _room(self, training: bool) -> int:
        most = max(one.samples for one in self._settings)
        return evaluated_prompts(self._spec, most, training=training and not self.holds_training)

    def _task(self, group_id: str, problem: EvaluationProblem, step: int) -> pb.PromptTask:
        evaluation = self._spec.evaluation
        row = problem.setting.dataset[problem.row]
        return pb.PromptTask(
            group_id=group_id,
            cursor=problem.row,
            row_id=row.row_id,
            prompt=row.prompt,
            gold=row.gold,
            grader=row.grader or self._spec.reward.grader,
            group_size=problem.setting.samples,
            issued_version=step,
            evaluation=problem.setting.name,
            sampling=pb.Sampling(
                temperature=evaluation.temperature,
                top_p=evaluation.top_p,
                max_response_tokens=evaluation.max_response_tokens or self._spec.sampling.max_response_tokens,
            ),
        )

    async def take(self, delivery: Delivery, record: GroupRecord) -> None:
        """A group of an evaluation is scored, or failed."""
        current, group_id = self._current, record.task.group_id
        failed = record.state == "failed"
        texts: list[bytes | None] = []
        if not failed:
            texts = await self._bus.payloads.get([grade.completion.text_key for grade in record.grades])
        state = "surplus" if failed else "evaluated"
        await self._bus.groups.settle(delivery, group_id, state, record.reason if failed else "", self._epoch)
        problem = current.in_flight.pop(group_id, None) if current else None
        if current is None or problem is None:
            return
        results = current.results[problem.setting.name]
        if failed:
            results.failed += 1
        else:
            results.add(problem.row, record, make_sample(record, texts, "evaluated"))
        # Groups are taken side by side: exactly one of them sees the last go, before it awaits anything.
        if current.finished:
            self._finishing = asyncio.create_task(self._finish(current))
        if failed and results.failed == 1:
            message = f"problem {record.task.row_id} of {problem.setting.name} failed: {record.reason}"
            await self._emit(Alert(group_id=group_id, message=message))
        if not current.finished and time.monotonic() - self._told_s > _PROGRESS_S:
            await self._tell_progress(current)

    async def _finish(self, current: VersionEvaluation) -> None:
        for setting in current.settings:
            row = await self._row(current, setting.name)
            samples = current.results[setting.name].samples
            await self._record(row, [samples[at] for at in sorted(samples)])
            self._recorded.add((current.step, setting.name))
            if row["avg_at_k"] is not None:
                self._fresh[setting.name] = {"step": current.step, "avg_at_k": row["avg_at_k"]["value"]}
            await self._emit(EvaluationFinished(row=row))
        self._current = None
        if self._next is not None:
            step, self._next = self._next, None
            await self._begin(step)
        await self._save()

    def _votes(self, grader: str) -> bool:
        """Whether what the grader extracts is an answer, so that a majority means something."""
        try:
            return find_grader(grader, self._graders).EXTRACTS_ANSWER
        except UnknownGrader:  # a row names it, and its verdicts say so
            return False

    async def _row(self, current: VersionEvaluation, name: str) -> dict[str, Any]:
        """As in evaluations.jsonl. Where every problem failed there are no measures."""
        results, evaluation = current.results[name], self._spec.evaluation
        judged = [results.judged[at] for at in sorted(results.judged)]
        measures: dict[str, Any] = {"problems": 0, "avg_at_k": None}
        if judged:
            # Thousands of problems take seconds.
            votes = all(self._votes(grader) for grader in results.graders)
            measures = (await asyncio.to_thread(measure, judged, majority=votes)).as_json()
        return {
            "step": current.step,
            "set": name,
            **measures,
            "failed_problems": results.failed,
            "version_min": results.version_min,
            "version_max": results.version_max,
            "temperature": evaluation.temperature,
            "top_p": evaluation.top_p,
            "elapsed_s": round(time.monotonic() - current.began_s, 3),
        }
