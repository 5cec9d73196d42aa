"""Evaluates versions of the policy on the run's own generators, beside the training.

Invariants: one evaluation goes on at a time, and of versions that fall due meanwhile the newest comes next; every
problem of a set ends as measured or as failed; a problem's responses are never trained on. While the base model is
evaluated no prompt is issued for training, so its figures are those of version 0 alone; the last version's are, too.
Between them training goes on, and an evaluation says which versions sampled it.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dapo.algo.batches import is_truncated
from dapo.algo.evaluation import Judged, measure
from dapo.bus import Bus, BusFull, Delivery
from dapo.bus.keys import EVALUATIONS, PROMPTS
from dapo.bus.parts.groups import GroupRecord
from dapo.contracts.verdicts import GRADER_FAILURES
from dapo.data import Dataset
from dapo.records.samples import Sample
from dapo.spec.run import RunSpec
from dapo.spec.tree.graders import UnknownGrader, find_grader
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.records.samples import make_sample

log = logging.getLogger(__name__)

_TRAINING_SHARE = 4
"""Beside training, prompts of an evaluation in flight: one for so many of a train batch."""
_ISSUED_AT_ONCE = 64
_PROGRESS_S = 1.0

Record = Callable[[Mapping[str, Any], Sequence[Sample]], None]
Emit = Callable[[str, dict[str, Any]], Awaitable[None]]


class EvaluationSetting(NamedTuple):
    """One set as it is evaluated."""

    name: str
    dataset: Dataset
    samples: int


class _Problem(NamedTuple):
    setting: EvaluationSetting
    row: int


@dataclass
class _Results:
    """Of one set, by row. A problem that failed has none."""

    samples: dict[int, Sample] = field(default_factory=dict)
    judged: dict[int, list[Judged]] = field(default_factory=dict)
    graders: set[str] = field(default_factory=set)
    version_min: int | None = None
    version_max: int | None = None
    failed: int = 0

    def add(self, row: int, record: GroupRecord, sample: Sample) -> None:
        self.samples[row] = sample
        self.judged[row] = [_judged(grade) for grade in record.grades]
        self.graders.add(record.task.grader)
        for completion in (grade.completion for grade in record.grades):
            oldest = completion.version_min
            self.version_min = oldest if self.version_min is None else min(self.version_min, oldest)
            self.version_max = max(self.version_max or 0, completion.version_max)


class _Evaluation:
    """Of one version, over all sets."""

    def __init__(self, step: int, settings: Sequence[EvaluationSetting]) -> None:
        self.step = step
        self.began_s = time.monotonic()
        # The sets take turns, so that versions that change meanwhile are the same for all.
        turns = [
            ((row + 0.5) / len(one.dataset), _Problem(one, row)) for one in settings for row in range(len(one.dataset))
        ]
        self.waiting = deque(problem for _, problem in sorted(turns, key=lambda turn: turn[0]))
        self.in_flight: dict[str, _Problem] = {}
        self.results = {one.name: _Results() for one in settings}
        self.problems = len(self.waiting)

    @property
    def done(self) -> int:
        return self.problems - len(self.waiting) - len(self.in_flight)

    @property
    def finished(self) -> bool:
        return not self.waiting and not self.in_flight


class Evaluator:
    """`begin_if_due` tells it of versions, `issue` gives it room to send prompts, `take` brings it scored groups."""

    def __init__(
        self, bus: Bus, spec: RunSpec, settings: Sequence[EvaluationSetting], *, record: Record, emit: Emit
    ) -> None:
        """`record` stores the measures of one set and its samples."""
        self._bus = bus
        self._spec = spec
        self._settings = settings
        self._record = record
        self._emit = emit
        self._issued = 0
        self._current: _Evaluation | None = None
        self._next: int | None = None
        self._newest = -1
        self._fresh: dict[str, dict[str, float]] = {}
        self._finishing: asyncio.Task[None] | None = None
        self._told_s = 0.0
        self._graders = spec.named_graders
        self._stream = EVALUATIONS if spec.evaluation.dedicated_generator else PROMPTS

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

    async def _begin_or_wait(self, step: int) -> None:
        if self._current is None:
            await self._begin(step)
            return
        if self._next is not None:
            message = f"the evaluation of step {self._next} is left out: that of step {self._current.step} goes on"
            await self._emit("alert", {"message": f"{message}; raise evaluation.every_steps or prompts_in_flight"})
        self._next = step

    def _is_due(self, step: int) -> bool:
        evaluation, last = self._spec.evaluation, self._spec.training.steps
        if step == last:
            return evaluation.at_end or last == 0
        if step == 0:
            return evaluation.at_start
        return evaluation.every_steps is not None and step % evaluation.every_steps == 0

    async def _begin(self, step: int) -> None:
        self._current = _Evaluation(step, self._settings)
        await self._tell_progress(self._current)

    async def _tell_progress(self, current: _Evaluation) -> None:
        self._told_s = time.monotonic()
        progress = {"state": "going on", "step": current.step, "done": current.done, "problems": current.problems}
        await self._emit("evaluation", progress)

    async def close(self) -> None:
        """Nothing of an evaluation goes on afterwards."""
        if self._finishing is not None:
            self._finishing.cancel()
            await asyncio.wait({self._finishing})

    async def issue(self, epoch: int, *, training: bool) -> None:
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
                await self._bus.issue_groups(prompts, epoch, stream=self._stream)
            except BusFull as error:
                log.warning("prompts of the evaluation wait until memory is free: %s", error)
                return
            for name, problem in tasks.items():
                current.in_flight[name] = problem
                current.waiting.popleft()
            self._issued += count
            room -= count

    def _room(self, training: bool) -> int:
        evaluation, resources = self._spec.evaluation, self._spec.resources.generator
        most = max(one.samples for one in self._settings)
        at_once = max(1, resources.max_running_requests // most)
        if evaluation.dedicated_generator:
            return at_once
        if not training or self.holds_training:
            return at_once * resources.replicas
        return evaluation.prompts_in_flight or max(1, self._spec.training.prompts_per_step // _TRAINING_SHARE)

    def _task(self, group_id: str, problem: _Problem, step: int) -> pb.PromptTask:
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

    async def take(self, delivery: Delivery, record: GroupRecord, epoch: int) -> None:
        """A group of an evaluation is scored, or failed."""
        current, group_id = self._current, record.task.group_id
        failed = record.state == "failed"
        texts: list[bytes | None] = []
        if not failed:
            texts = await self._bus.get_payloads([grade.completion.text_key for grade in record.grades])
        state = "surplus" if failed else "evaluated"
        await self._bus.settle_group(delivery, group_id, state, record.reason if failed else "", epoch)
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
            await self._emit("alert", {"group_id": group_id, "message": message})
        if not current.finished and time.monotonic() - self._told_s > _PROGRESS_S:
            await self._tell_progress(current)

    async def _finish(self, current: _Evaluation) -> None:
        for setting in self._settings:
            row = await self._row(current, setting.name)
            samples = current.results[setting.name].samples
            await asyncio.to_thread(self._record, row, [samples[at] for at in sorted(samples)])
            if row["avg_at_k"] is not None:
                self._fresh[setting.name] = {"step": current.step, "avg_at_k": row["avg_at_k"]["value"]}
            await self._emit("evaluation", {"state": "finished", **row})
        self._current = None
        if self._next is not None:
            step, self._next = self._next, None
            await self._begin(step)

    def _votes(self, grader: str) -> bool:
        """Whether what the grader extracts is an answer, so that a majority means something."""
        try:
            return find_grader(grader, self._graders).EXTRACTS_ANSWER
        except UnknownGrader:  # a row names it, and its verdicts say so
            return False

    async def _row(self, current: _Evaluation, name: str) -> dict[str, Any]:
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


def _judged(grade: pb.Grade) -> Judged:
    completion = grade.completion
    # What a failed grading extracted is its error.
    answer = "" if grade.reason in GRADER_FAILURES else grade.extracted
    return Judged(grade.correct, answer, completion.response_tokens, is_truncated(completion))
