"""A group's record: one Redis hash, read as messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from dapo.bus.errors import UnknownGroup
from dapo.bus.parts.part import Context
from dapo.v1 import messages_pb2 as pb


@dataclass(frozen=True, slots=True)
class GroupRecord:
    group_id: str
    task: pb.PromptTask
    state: str
    reason: str
    grades: list[pb.Grade]
    """By index; complete once the group is scored."""


class Mark(NamedTuple):
    """Something that happened to a group."""

    at_ms: int
    """Unix time in milliseconds, by the clock of Redis."""
    what: str
    """A state that it went to, or `claimed` (from a dead consumer, by another), `handed_back` (by a consumer, whose
    engine was lost: 1), `refilled` (index, generator, attempt of the response that was lost)."""
    words: list[str]
    """As in the brackets."""


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """All that the bus knows of one group."""

    record: GroupRecord
    ungraded: list[pb.Completion]
    """Accepted and not graded, by index."""
    marks: list[Mark]
    """Oldest first."""
    marks_lost: int
    """Marks after the first that were dropped, as there were too many."""
    stream: str
    """Of its prompts."""
    deliveries: int
    """How often its prompt was handed out, or put on its stream for that."""
    batch: int | None
    letter_id: str
    """Of the first dead letter that names it; empty: none."""
    requeued_as: str
    """The group in which its prompt was issued once more; empty: none."""


async def read_hashes(context: Context, group_ids: Sequence[str]) -> list[tuple[str, dict[bytes, bytes]]]:
    """(group id, fields) in the order asked for; no fields for a group that has no record."""
    pipeline = context.control.client.pipeline(transaction=False)
    for group_id in group_ids:
        pipeline.hgetall(context.keys.group(group_id))
    return list(zip(group_ids, await context.control.run(pipeline.execute), strict=True))


def parse_task(run_id: str, group_id: str, data: bytes | None) -> pb.PromptTask:
    """Raises UnknownGroup where there is no data."""
    if data is None:
        raise UnknownGroup(f"run {run_id!r} has no group {group_id!r}, or no longer has its record")
    return pb.PromptTask.FromString(data)


def parse_record(run_id: str, group_id: str, fields: Mapping[bytes, bytes]) -> GroupRecord:
    """Raises UnknownGroup where there are no fields."""
    task = parse_task(run_id, group_id, fields.get(b"task"))
    stored = (fields.get(b"grade:%d" % index) for index in range(task.group_size))
    grades = [pb.Grade.FromString(data) for data in stored if data is not None]
    return GroupRecord(group_id, task, fields[b"state"].decode(), fields[b"reason"].decode(), grades)


def parse_facts(run_id: str, group_id: str, fields: Mapping[bytes, bytes]) -> GroupFacts:
    """Raises UnknownGroup where there are no fields."""
    record = parse_record(run_id, group_id, fields)
    graded = {grade.completion.index for grade in record.grades}
    completions = {index: fields.get(b"completion:%d" % index) for index in range(record.task.group_size)}
    lines = [line.split(" ") for line in fields.get(b"trail", b"").decode().splitlines()]
    return GroupFacts(
        record=record,
        ungraded=[
            pb.Completion.FromString(data) for index, data in completions.items() if data and index not in graded
        ],
        marks=[Mark(int(at_ms), what, words) for at_ms, what, *words in lines],
        marks_lost=int(fields.get(b"marks_lost", 0)),
        stream=fields[b"stream"].decode(),
        deliveries=int(fields[b"attempts"]),
        batch=int(fields[b"batch"]) if b"batch" in fields else None,
        letter_id=fields.get(b"letter", b"").decode(),
        requeued_as=fields.get(b"requeued_as", b"").decode(),
    )
