"""One evaluation under way: which problems wait, which are in flight, what has come of them. No I/O."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dapo.algo.batches import is_truncated
from dapo.algo.evaluation import Judged
from dapo.bus import GroupRecord
from dapo.data import Dataset
from dapo.records.samples import Sample
from dapo.v1 import messages_pb2 as pb


class EvaluationSetting(NamedTuple):
    """One set as it is evaluated."""

    name: str
    dataset: Dataset
    samples: int


class EvaluationProblem(NamedTuple):
    """A prompt with a known answer: one row of a set."""

    setting: EvaluationSetting
    row: int


@dataclass
class SetResults:
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


class VersionEvaluation:
    """Of one version, over some sets."""

    def __init__(self, step: int, settings: Sequence[EvaluationSetting]) -> None:
        self.step = step
        self.settings = settings
        self.began_s = time.monotonic()
        # The sets take turns, so that versions that change meanwhile are the same for all.
        turns = [
            ((row + 0.5) / len(one.dataset), EvaluationProblem(one, row))
            for one in settings
            for row in range(len(one.dataset))
        ]
        self.waiting = deque(problem for _, problem in sorted(turns, key=lambda turn: turn[0]))
        self.in_flight: dict[str, EvaluationProblem] = {}
        self.results = {one.name: SetResults() for one in settings}
        self.problems = len(self.waiting)

    @property
    def done(self) -> int:
        return self.problems - len(self.waiting) - len(self.in_flight)

    @property
    def finished(self) -> bool:
        return not self.waiting and not self.in_flight


def _judged(grade: pb.Grade) -> Judged:
    completion = grade.completion
    return Judged(grade.correct, grade.answer_class, completion.response_tokens, is_truncated(completion))
