"""What is known of a run's groups once its Redis is gone: RUN_DIR/groups.pb.gz and RUN_DIR/dead_letters.jsonl.

Written at the run's end from the records in Redis, which are those of open groups and of the last 4,096 settled ones.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path

from google.protobuf.message import DecodeError
from google.protobuf.proto import parse_length_prefixed, serialize_length_prefixed
from pydantic import BaseModel, ConfigDict

from dapo.bus.failures import explain_failure
from dapo.bus.parts.decisions import Frontier
from dapo.bus.parts.records import GroupRecord, parse_facts, parse_record
from dapo.host.files import replacing, write_text
from dapo.records.explanations import GroupExplanation, explain_group, iso
from dapo.records.folder import RunFolder
from dapo.records.json_lines import read_json_lines
from dapo.v1 import messages_pb2 as pb

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


def write_group_archive(run_dir: Path, groups: Iterable[tuple[str, Mapping[bytes, bytes]]]) -> None:
    """Add the records of the groups, as the bus has them, to those of an earlier end, which they replace. Raises
    OSError."""
    path = RunFolder(run_dir).groups
    records = _known(path)
    for group_id, fields in groups:
        named = {name.decode(): value for name, value in fields.items()}
        records[group_id] = pb.StoredGroup(group_id=group_id, fields=named)
    _write(path, records)


def rewind_group_archive(run_dir: Path, frontier: Frontier | None) -> None:
    """Forget the groups that were not settled where a run goes on (None: at its beginning), because they come again.
    Raises OSError."""
    path = RunFolder(run_dir).groups
    if frontier is None or not path.exists():
        path.unlink(missing_ok=True)
        return
    newest = {"g": frontier.issued.partition(" ")[0], "e": frontier.evaluated}
    settled = {
        group_id: record
        for group_id, record in _known(path).items()
        if group_id <= newest[group_id[0]] and group_id not in frontier.unsettled
    }
    _write(path, settled)


def read_archived_group(run_dir: Path, group_id: str) -> GroupExplanation | None:
    """None where the file, or the group in it, is not there. Raises ValueError for a file that is damaged, OSError."""
    for one in _read(RunFolder(run_dir).groups):
        if one.group_id == group_id:
            facts = parse_facts(run_dir.name, group_id, {name.encode(): value for name, value in one.fields.items()})
            letters = {letter.id: letter.model_dump() for letter in read_dead_letters(run_dir)}
            return explain_group(facts, letters.get(facts.letter_id), [])
    return None


def read_archived_records(run_dir: Path) -> Iterator[GroupRecord]:
    """Those of all groups in the file; none where it is not there. Raises ValueError for a damaged file, OSError."""
    for one in _read(RunFolder(run_dir).groups):
        fields = {name.encode(): value for name, value in one.fields.items()}
        yield parse_record(run_dir.name, one.group_id, fields)


def _known(path: Path) -> dict[str, pb.StoredGroup]:
    try:
        return {one.group_id: one for one in _read(path)}
    except ValueError:
        return {}  # What is damaged is of no use any more.


def _write(path: Path, records: Mapping[str, pb.StoredGroup]) -> None:
    data = BytesIO()
    for _, record in sorted(records.items())[-_MOST:]:
        serialize_length_prefixed(record, data)
    with replacing(path) as scratch:
        scratch.write_bytes(gzip.compress(data.getbuffer(), _LEVEL))


def _read(path: Path) -> Iterator[pb.StoredGroup]:
    """Nothing where there is no file. Raises ValueError for one that is damaged, OSError."""
    if not path.exists():
        return
    try:
        data = BytesIO(gzip.decompress(path.read_bytes()))
        while (one := parse_length_prefixed(pb.StoredGroup, data)) is not None:
            yield one
    except (EOFError, zlib.error, gzip.BadGzipFile, DecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error


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
