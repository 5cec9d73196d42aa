"""What is known of a run's groups once its Redis is gone: RUN_DIR/groups.jsonl.gz and RUN_DIR/dead_letters.jsonl.

Written at the run's end from the records in Redis, which are those of open groups and of the last 4,096 settled ones.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from dapo.bus.failures import explain_failure
from dapo.host.files import replacing, write_text
from dapo.records.explanations import GroupExplanation, iso
from dapo.records.folder import RunFolder
from dapo.records.json_lines import read_json_lines

_MOST = 8_192
"""Groups in the file; of a run that went on after an end, those of before stay as far as there is room."""
_LEVEL = 5


class DeadLetter(BaseModel):
    """Something that was taken out of circulation."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    id: str
    group: str
    """Empty where the entry named none."""
    reason: str
    detail: str
    explanation: str
    """The reason in a sentence."""
    at: str
    """ISO 8601, UTC."""


def dead_letter(fields: dict[str, str]) -> DeadLetter:
    """Of what the bus reads."""
    named, letter_id = fields["reason"], fields["id"]
    return DeadLetter(
        id=letter_id,
        group=fields["group"],
        reason=named,
        detail=fields["detail"],
        explanation=explain_failure(named),
        at=iso(int(letter_id.partition("-")[0])),
    )


def write_group_archive(run_dir: Path, groups: Iterable[GroupExplanation]) -> None:
    """Add the groups to those of an earlier end of the run, which they replace. Raises OSError."""
    path = RunFolder(run_dir).groups
    lines = dict(_lines(path)) if path.exists() else {}
    for group in groups:
        lines.pop(group.group_id, None)
        lines[group.group_id] = group.model_dump_json().encode() + b"\n"
    with replacing(path) as scratch, gzip.open(scratch, "wb", _LEVEL) as file:
        file.writelines(list(lines.values())[-_MOST:])


def read_archived_group(run_dir: Path, group_id: str) -> GroupExplanation | None:
    """None where the file, or the group in it, is not there. Raises ValueError for one that cannot be read, OSError."""
    path = RunFolder(run_dir).groups
    if not path.exists():
        return None
    for found, line in _lines(path):
        if found == group_id:
            try:
                return GroupExplanation.model_validate_json(line)
            except ValidationError as error:
                raise ValueError(f"{path} has group {group_id} in a form that this release does not read") from error
    return None


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Group id and line. A file that was cut short ends early."""
    start = b'{"group_id":"'
    with gzip.open(path, "rb") as file:
        try:
            for line in file:
                if line.startswith(start) and line.endswith(b"\n"):
                    yield line[len(start) :].partition(b'"')[0].decode(), line
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return


def write_dead_letters(run_dir: Path, letters: Iterable[DeadLetter]) -> None:
    """Oldest first; with those of an earlier end of the run. Raises OSError."""
    path = RunFolder(run_dir).dead_letters
    known = {letter.id: letter for letter in [*read_dead_letters(run_dir), *letters]}
    if known:
        write_text(path, "".join(f"{letter.model_dump_json()}\n" for letter in known.values()))


def read_dead_letters(run_dir: Path) -> list[DeadLetter]:
    """Oldest first. Raises ValueError for a file that cannot be read, OSError."""
    path = RunFolder(run_dir).dead_letters
    return [DeadLetter.model_validate(row) for row in read_json_lines(path)] if path.exists() else []
