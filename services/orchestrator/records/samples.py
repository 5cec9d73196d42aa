"""Keeps groups for people to read (format: dapo/records/samples.py).

Nothing here catches OSError: whether a full disk is borne is for the caller to decide, and a run should bear it.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dapo.algo.batches import is_truncated
from dapo.bus import GroupRecord
from dapo.contracts.prompts import prompt_text
from dapo.host.files import append_line, replacing
from dapo.records.folder import RunFolder
from dapo.records.json_lines import json_number, keep_json_lines
from dapo.records.samples import Sample, SampleResponse, evaluation_path
from dapo.v1 import messages_pb2 as pb

_MAX_CHARACTERS = 32_768
"""Of a prompt, a gold answer or a response; of a longer one the beginning and the end are kept."""
_LIMIT_BYTES = 64 << 20


def make_sample(record: GroupRecord, texts: Sequence[bytes | None], outcome: str) -> Sample:
    """The sample of a scored group with the texts of its responses, by index; read them before the group is settled,
    for settling deletes those of a group that is not kept.

    Raises ValueError unless there is one text, or None, for each grade, and for an outcome that a sample cannot have.
    """
    task = record.task
    if len(texts) != len(record.grades):
        raise ValueError(f"group {record.group_id}: {len(texts)} texts for {len(record.grades)} grades")
    return Sample(
        step=task.issued_version,
        set=task.evaluation or None,
        group_id=record.group_id,
        row_id=task.row_id,
        prompt=_cut(prompt_text(task.prompt)),
        gold=_cut(task.gold),
        grader=task.grader,
        outcome=outcome,
        responses=tuple(_response(grade, text) for grade, text in zip(record.grades, texts, strict=True)),
    )


def _response(grade: pb.Grade, text: bytes | None) -> SampleResponse:
    completion = grade.completion
    return SampleResponse(
        index=completion.index,
        text=None if text is None else _cut(text.decode(errors="replace")),
        correct=grade.correct,
        score=json_number(grade.score),
        reason=grade.reason,
        extracted=_cut(grade.extracted),
        tokens=completion.response_tokens,
        truncated=is_truncated(completion),
        reward=json_number(grade.reward),
        penalty=json_number(grade.overlong_penalty),
        version_min=completion.version_min,
        version_max=completion.version_max,
        parts={name: json_number(score) for name, score in sorted(grade.parts.items())},
    )


def _cut(text: str) -> str:
    if len(text) <= _MAX_CHARACTERS:
        return text
    half = _MAX_CHARACTERS // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half:,} characters left out …]\n{text[-half:]}"


Secure = Callable[[], Awaitable[None]]
"""Returns while this process may write to the run's folder."""


async def _alone() -> None:
    """Nobody else could write."""


class SampleArchive:
    """Invariant: files hold whole lines only, also after a write that failed.

    samples.jsonl takes `groups_per_step` groups of each step, those that are settled first, of which at most half (one
    where that is none) are filtered: an archive of prompts that are all too hard shows little.
    """

    def __init__(self, run_dir: Path, groups_per_step: int, limit_bytes: int = _LIMIT_BYTES) -> None:
        self._run_dir = run_dir
        self._groups_per_step = groups_per_step
        self._limit_bytes = limit_bytes
        self._added: Counter[tuple[int, str]] = Counter()
        self.secure: Secure = _alone
        """Awaited before `add`."""

    def reopen(self) -> None:
        """Count what is there. Raises ValueError for a file that is none of samples, OSError."""
        self._count(keep_json_lines(RunFolder(self._run_dir).samples))

    def rewind(self, steps: int) -> None:
        """Forget the groups that were issued at version `steps` or later. Raises OSError."""
        path = RunFolder(self._run_dir).samples
        self._count(keep_json_lines(path, lambda row: row["step"] < steps))

    def _count(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self._added = Counter((row["step"], row["outcome"]) for row in rows)

    def wants(self, step: int, outcome: str) -> bool:
        """Whether there is room for one more training group that was issued at `step` (its `issued_version`)."""
        kept, filtered = self._added[step, "kept"], self._added[step, "filtered"]
        if kept + filtered >= self._groups_per_step:
            return False
        return outcome == "kept" or filtered < max(1, self._groups_per_step // 2)

    def add(self, sample: Sample) -> None:
        """Append one line to samples.jsonl, which is first renamed to samples.1.jsonl where it would grow too long.

        Does nothing where the step has found enough groups since the caller asked `wants`.
        Raises OSError, e.g. where the disk is full; then nothing was added, and the next call may succeed.
        """
        if not self.wants(sample.step, sample.outcome):
            return
        folder = RunFolder(self._run_dir)
        path = folder.samples
        line = _line(sample)
        size = path.stat().st_size if path.exists() else 0
        if size and size + len(line) > self._limit_bytes:
            path.replace(folder.rotated_samples)
        append_line(path, line)
        self._added[sample.step, sample.outcome] += 1

    def write_evaluation(self, set_name: str, step: int, samples: Sequence[Sample]) -> Path:
        """Write the groups of one evaluation in the order given, in one step, and return the file's path.

        Raises OSError, e.g. where the disk is full; then an older file of that name is as it was. Raises ValueError for
        a set name that is no single folder.
        """
        path = evaluation_path(self._run_dir, set_name, step)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as scratch, scratch.open("wb") as file:
            file.writelines(map(_line, samples))
        return path


def _line(sample: Sample) -> bytes:
    return sample.model_dump_json().encode() + b"\n"
