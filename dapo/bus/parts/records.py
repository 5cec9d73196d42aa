"""A group's record: one Redis hash, read as messages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
