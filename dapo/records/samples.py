"""Samples: groups kept for people to read, with every response and its verdict.

One JSON line a group. Training groups lie in RUN_DIR/samples.jsonl (older ones in samples.1.jsonl), the groups of an
evaluation in RUN_DIR/evaluations/<set>/step-000010.jsonl.
"""

import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dapo.records.folder import RunFolder

_STEP_FILE = re.compile(r"step-(\d+)\.jsonl")
_HIGH_VARIANCE = (0.25, 0.75)
"""Shares of correct responses, both ends included, between which a group's verdicts vary most."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class SampleResponse(_Record):
    index: int
    text: str | None
    """None where the text was gone when the group was archived."""
    correct: bool
    score: float | None
    """The grader's, in [0, 1]; like every number here None where it was not finite."""
    reason: str
    extracted: str
    tokens: int
    truncated: bool
    """Cut at the token limit."""
    reward: float | None
    """Shaped: the verdict's reward and the penalty."""
    penalty: float | None
    """Soft overlong punishment, in [−1, 0]."""
    version_min: int
    version_max: int
    """Steps of the oldest and newest weights that sampled tokens of it."""
    parts: dict[str, float | None] = Field(default={})
    """Scores of the parts of a weighted sum, by grader."""


class Sample(_Record):
    """One group."""

    step: int
    """Version step at which the group was issued."""
    set: str | None
    """Name of the evaluation set; None: it was for training."""
    group_id: str
    row_id: str
    prompt: str
    gold: str
    grader: str
    outcome: str = Field(pattern="^(kept|filtered|evaluated)$")
    """Kept for training, filtered by dynamic sampling, or evaluated."""
    responses: tuple[SampleResponse, ...] = Field(min_length=1)
    """By index."""

    @property
    def correct_count(self) -> int:
        return sum(response.correct for response in self.responses)

    @property
    def share_correct(self) -> float:
        return self.correct_count / len(self.responses)


class SampleFile(NamedTuple):
    path: Path
    step: int | None = None
    """Of the weights that were evaluated; None: a file of training samples, each with its own."""


class Group(NamedTuple):
    step: int
    """At which the group was issued; of a group of an evaluation, whose weights were evaluated."""
    sample: Sample


class UnreadableLine(NamedTuple):
    """A line that is no sample."""

    path: Path
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.problem}"


def evaluation_path(run_dir: Path, set_name: str, step: int) -> Path:
    """File of the samples of one evaluation. Raises ValueError for a name that is no single folder."""
    if set_name in ("", ".", "..") or any(char in set_name for char in "/\\\0"):
        raise ValueError(
            f"the evaluation set {set_name!r} cannot name a folder: rename it in evaluation.sets, without / and \\"
        )
    return RunFolder(run_dir).evaluation_samples / set_name / f"step-{step:06d}.jsonl"


def training_files(run_dir: Path) -> list[SampleFile]:
    """Those that are there, the older one first."""
    folder = RunFolder(run_dir)
    return [SampleFile(path) for path in (folder.rotated_samples, folder.samples) if path.exists()]


def evaluation_sets(run_dir: Path) -> list[str]:
    """Names of the sets of which an evaluation is there, sorted."""
    folders = RunFolder(run_dir).evaluation_samples.glob("*/")
    return sorted(folder.name for folder in folders if evaluation_files(run_dir, folder.name))


def evaluation_files(run_dir: Path, set_name: str) -> list[SampleFile]:
    """By step."""
    found = (RunFolder(run_dir).evaluation_samples / set_name).glob("step-*.jsonl")
    matches = ((_STEP_FILE.fullmatch(path.name), path) for path in found)
    files = [(int(match[1]), path) for match, path in matches if match]
    return [SampleFile(path, step) for step, path in sorted(files)]


def read_groups(files: Iterable[SampleFile], unreadable: list[UnreadableLine]) -> Iterator[Group]:
    """The groups of the files in order, one at a time; lines that are no sample go to `unreadable`. Raises OSError."""
    for path, step in files:
        for sample in read_samples(path, unreadable):
            yield Group(sample.step if step is None else step, sample)


def read_samples(path: Path, unreadable: list[UnreadableLine] | None = None) -> Iterator[Sample]:
    """The samples of a file, one at a time; lines that are none go to `unreadable`. A last line without its end is left
    out: it is being written. Raises OSError."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield Sample.model_validate_json(line)
            except ValidationError as error:
                if unreadable is not None:
                    unreadable.append(UnreadableLine(path, number, _problem(error)))


def _problem(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg']}" if place else first["msg"]


class SampleFilter(NamedTuple):
    """Which groups, and which of their responses, somebody wants to see. All that is set must hold."""

    correct: bool | None = None
    """Only correct responses, or only wrong ones."""
    truncated: bool = False
    """Only responses that were cut at the token limit."""
    high_variance: bool = False
    """Only groups whose share of correct responses lies within _HIGH_VARIANCE."""
    steps: Collection[int] | None = None
    """Only groups of these steps."""
    prompt: str = ""
    """Only groups whose row id is this, or whose prompt contains it, in capitals or not."""

    def group(self, group: Group) -> bool:
        """Whether the group is wanted, whatever its responses are."""
        step, sample = group
        low, high = _HIGH_VARIANCE
        return (
            (self.steps is None or step in self.steps)
            and (not self.high_variance or low <= sample.share_correct <= high)
            and (sample.row_id == self.prompt or self.prompt.casefold() in sample.prompt.casefold())
        )

    def responses(self, sample: Sample) -> list[SampleResponse]:
        """Those of a wanted group that are wanted."""
        return [
            response
            for response in sample.responses
            if self.correct in (None, response.correct) and (response.truncated or not self.truncated)
        ]


def newest(groups: Iterable[Group], wanted: SampleFilter, count: int) -> list[Group]:
    """The last `count` of the wanted groups that have a wanted response, in the order given."""
    found = (group for group in groups if wanted.group(group) and wanted.responses(group.sample))
    return list(deque(found, maxlen=count))


def last_steps(groups: Iterable[Group], count: int) -> set[int]:
    """The `count` highest steps of which there is a group."""
    return set(sorted({group.step for group in groups})[-count:])
