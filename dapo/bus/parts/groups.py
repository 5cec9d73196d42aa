"""Groups: from the issue of a prompt to the decision about its scored responses.

Invariants, each kept by one Lua script:
- the first completion and the first grade of (group, index) win; a completion enters its stream as it is accepted;
- a group is put on `scored` once, by its last grade or by its failure;
- a discarded group (filtered, surplus, stale, failed) accepts nothing more, and what arrives late is deleted;
- sum(ledger counts) equals the groups issued, at every moment.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from dapo.bus.errors import BusError, UnknownGroup
from dapo.bus.keys import PROMPTS
from dapo.bus.ledger import SETTLED, GroupState
from dapo.bus.parts.part import chunks
from dapo.bus.parts.payloads import Payloads, attempts_until
from dapo.bus.parts.streams import Delivery
from dapo.v1 import messages_pb2 as pb

_CHUNK = 64
"""Items of one script call: short enough (about 1 ms) not to hold up the server."""
_ARCHIVE = 4096
"""Records of finished groups kept for questions about the past: some 20 MB for groups of 16."""


class Outcome(StrEnum):
    WRITTEN = "written"
    DUPLICATE = "duplicate"
    """Somebody did the same before; nothing changed."""
    CLOSED = "closed"
    """The group takes no more: the caller drops its work."""


@dataclass(frozen=True, slots=True)
class GroupRecord:
    group_id: str
    task: pb.PromptTask
    state: str
    reason: str
    grades: list[pb.Grade]
    """By index; complete once the group is scored."""


class Groups(Payloads):
    async def issue_groups(self, tasks: Sequence[pb.PromptTask], epoch: int, *, stream: str = PROMPTS) -> None:
        """Issues groups as prompts, in order. A group that was issued before is left alone. Raises Fenced."""
        calls = []
        for chunk in chunks(tasks, _CHUNK):
            call: list[str | bytes | int] = [epoch, stream]
            for task in chunk:
                if task.group_size < 1:
                    raise ValueError(f"group {task.group_id!r}: group_size is {task.group_size}, must be at least 1")
                call += (task.group_id, task.group_size, task.issued_version, task.SerializeToString())
                call.append(int(bool(task.evaluation)))
            calls.append(call)
        await self.control.scripts("issue_groups", self.keys.prefix, calls)

    async def read_task(self, group_id: str) -> pb.PromptTask:
        return (await self.read_tasks([group_id]))[0]

    async def read_tasks(self, group_ids: Sequence[str]) -> list[pb.PromptTask]:
        """Raises UnknownGroup."""
        pipeline = self.control.client.pipeline(transaction=False)
        for group_id in group_ids:
            pipeline.hget(self.keys.group(group_id), "task")
        found = await self.control.run(pipeline.execute)
        return [self._task(group_id, data) for group_id, data in zip(group_ids, found, strict=True)]

    async def missing_indices(self, group_id: str) -> list[int]:
        """Indices without a completion, ascending; none when the group accepts no more."""
        pipeline = self.control.client.pipeline(transaction=True)
        pipeline.hmget(self.keys.group(group_id), "state", "size")
        pipeline.hkeys(self.keys.group(group_id))
        (state, size), names = await self.control.run(pipeline.execute)
        if state != GroupState.ISSUED.encode():
            return []
        present = set(names)
        return [index for index in range(int(size)) if b"completion:%d" % index not in present]

    async def write_completions(self, completions: Sequence[pb.Completion]) -> list[Outcome]:
        """Accepts completions whose payloads are stored; the first of (group, index) wins.

        Payloads of a completion that lost, or whose group is closed, are deleted. Raises BusFull with nothing of the
        refused chunk accepted, and BusError for an index outside its group.
        """
        calls = []
        for chunk in chunks(completions, _CHUNK):
            call: list[str | bytes | int] = []
            for completion in chunk:
                call += (completion.group_id, completion.index, completion.SerializeToString())
            calls.append(call)
        replies = await self.control.scripts("write_completions", self.keys.prefix, calls)
        outcomes: list[Outcome] = []
        useless: list[str] = []
        invalid: list[str] = []
        for completion, reply in zip(completions, (item for chunk in replies for item in chunk), strict=True):
            keys = {completion.payload_key, completion.text_key}
            if reply == b"invalid":
                invalid.append(f"{completion.group_id}[{completion.index}]")
            elif isinstance(reply, list):
                winner = pb.Completion.FromString(reply[0])
                useless += keys - {winner.payload_key, winner.text_key}
                outcomes.append(Outcome.DUPLICATE)
            else:
                if reply == b"closed":
                    useless += keys
                outcomes.append(Outcome(reply.decode()))
        await self.delete_payloads(useless)
        if invalid:
            raise BusError(f"completions {', '.join(invalid)} lie outside their groups' sizes; the others are written")
        return outcomes

    async def write_grades(self, grades: Sequence[tuple[Delivery, pb.Grade]]) -> list[Outcome]:
        """Stores grades and acknowledges their completions; the last grade of a group puts it on `scored`.

        Raises BusError for a grade without an accepted completion (its delivery stays pending).
        """
        calls = []
        for chunk in chunks(grades, _CHUNK):
            call: list[str | bytes | int] = []
            for delivery, grade in chunk:
                completion = grade.completion
                call += (delivery.message_id, completion.group_id, completion.index, grade.SerializeToString())
            calls.append(call)
        chunked = await self.control.scripts("write_grades", self.keys.prefix, calls)
        replies = [reply.decode() for chunk in chunked for reply in chunk]
        if "invalid" in replies:
            at = grades[replies.index("invalid")][1].completion
            raise BusError(
                f"grade of {at.group_id}[{at.index}]: no such completion was accepted; call fail_group with it"
            )
        return [Outcome(reply) for reply in replies]

    async def fail_group(
        self,
        group_id: str,
        reason: str,
        detail: str = "",
        *,
        stream: str | None = None,
        delivery: Delivery | None = None,
    ) -> Outcome:
        """Files a dead letter, fails the group, acknowledges the delivery and announces the group on `scored`.

        CLOSED: the group was scored or settled before, so only the dead letter and the acknowledgement happened.
        Raises ValueError when a delivery comes without its stream.
        """
        if (stream is None) != (delivery is None):
            raise ValueError("fail_group: give `stream` and `delivery` together")
        message_id, data = (delivery.message_id, delivery.data) if delivery else ("", b"")
        reply = await self._dead_letter(group_id, reason, detail, stream or "", message_id, data)
        await self.sweep([group_id])
        return Outcome(reply.decode())

    async def read_group(self, group_id: str) -> GroupRecord:
        return (await self.read_groups([group_id]))[0]

    async def read_groups(self, group_ids: Sequence[str]) -> list[GroupRecord]:
        """Raises UnknownGroup."""
        return [self._record(group_id, fields) for group_id, fields in await self._hashes(group_ids)]

    async def settle_group(
        self, delivery: Delivery | None, group_id: str, state: str, reason: str, epoch: int
    ) -> Outcome:
        """Decides about a group (kept, filtered, evaluated, surplus or stale) and acknowledges its `scored` entry.

        Raises Fenced, LedgerError when the group's state does not allow it, ValueError for another state.
        """
        if state not in SETTLED:
            raise ValueError(f"group {group_id}: cannot be settled as {state!r}; use {', '.join(sorted(SETTLED))}")
        message_id = delivery.message_id if delivery else ""
        reply = await self._script("settle_group", epoch, group_id, state, reason, message_id)
        if state != GroupState.KEPT:
            await self.sweep([group_id])
        return Outcome(reply.decode())

    async def open_groups(self) -> list[str]:
        """Ids of the groups that are issued, generated, scored or kept, in order of issue."""
        found = await self.control.run(self.control.client.zrange, self.keys.open, 0, -1)
        return [group_id.decode() for group_id in found]

    async def close_open_groups(self, reason: str, epoch: int) -> int:
        """Drains: every open group that is for training becomes surplus. Returns how many. Raises Fenced."""
        closed = 0
        while moved := int(await self._script("close_groups", epoch, reason, _CHUNK)):
            closed += moved
        await self.sweep()
        return closed

    async def ledger_counts(self) -> dict[str, int]:
        """State -> groups in it, for every state, at one moment."""
        stored = await self.control.run(self.control.client.hgetall, self.keys.ledger)
        return {state.value: int(stored.get(state.encode(), 0)) for state in GroupState}

    async def issued_total(self) -> int:
        return int(await self.control.run(self.control.client.hget, self.keys.ledger, "total") or 0)

    async def read_dead_letters(self, count: int = 100) -> list[dict[str, str]]:
        """The newest first: id, group, reason, detail, stream, message_id, data (hexadecimal)."""
        found = await self.control.run(self.control.client.xrevrange, self.keys.dead, count=count)
        letters = []
        for entry, fields in found:
            letter = {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
            letters.append({**letter, "id": entry.decode(), "data": fields[b"data"].hex()})
        return letters

    async def sweep(self, group_ids: Sequence[str] | None = None) -> None:
        """Deletes the payloads of discarded and checkpointed groups: those named, or all that are marked.

        The mark goes last, so that a sweep that was cut short is finished by the next.
        """
        if group_ids is None:
            marked = await self.control.run(self.control.client.smembers, self.keys.garbage)
            group_ids = sorted(group_id.decode() for group_id in marked)
        for chunk in chunks(group_ids, _CHUNK):
            flags = await self.control.run(self.control.client.smismember, self.keys.garbage, list(chunk))
            known = [group_id for group_id, flag in zip(chunk, flags, strict=True) if flag]
            if known:
                hashes = await self._hashes(known)
                await self.delete_payloads([key for found in hashes for key in self._blobs(*found)])
                await self._script("retire_groups", _ARCHIVE, *known)

    async def _hashes(self, group_ids: Sequence[str]) -> list[tuple[str, dict[bytes, bytes]]]:
        pipeline = self.control.client.pipeline(transaction=False)
        for group_id in group_ids:
            pipeline.hgetall(self.keys.group(group_id))
        return list(zip(group_ids, await self.control.run(pipeline.execute), strict=True))

    def _blobs(self, group_id: str, fields: Mapping[bytes, bytes]) -> set[str]:
        """Every payload key the group can have: those of accepted completions, and of all tries of all deliveries."""
        keys = set()
        for index in range(int(fields.get(b"size", 0))):
            for attempt in attempts_until(int(fields[b"attempts"])):
                keys |= {self.payload_key(group_id, index, attempt), self.text_key(group_id, index, attempt)}
            accepted = fields.get(b"completion:%d" % index)
            if accepted is not None:
                completion = pb.Completion.FromString(accepted)
                keys |= {completion.payload_key, completion.text_key}
        return keys - {""}

    def _task(self, group_id: str, data: bytes | None) -> pb.PromptTask:
        if data is None:
            raise UnknownGroup(f"run {self.run_id!r} has no group {group_id!r}, or no longer has its record")
        return pb.PromptTask.FromString(data)

    def _record(self, group_id: str, fields: Mapping[bytes, bytes]) -> GroupRecord:
        task = self._task(group_id, fields.get(b"task"))
        stored = (fields.get(b"grade:%d" % index) for index in range(task.group_size))
        grades = [pb.Grade.FromString(data) for data in stored if data is not None]
        return GroupRecord(group_id, task, fields[b"state"].decode(), fields[b"reason"].decode(), grades)
