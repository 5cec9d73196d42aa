"""Groups: from the issue of a prompt to the decision about its scored responses."""

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from dapo.bus.errors import BusError
from dapo.bus.failures import FailureReason
from dapo.bus.keys import PROMPTS
from dapo.bus.ledger import SETTLED, GroupState, counts
from dapo.bus.parts.dead_letters import DeadLetters
from dapo.bus.parts.decisions import HISTORY
from dapo.bus.parts.garbage import Garbage
from dapo.bus.parts.part import Context, Part, chunks, new_nonce
from dapo.bus.parts.payloads import Payloads
from dapo.bus.parts.records import GroupFacts, GroupRecord, parse_facts, parse_record, parse_task, read_hashes
from dapo.bus.parts.streams import Delivery
from dapo.v1 import messages_pb2 as pb

_MOST_REFILLS = 3
"""Of one index; more is no accident."""
_SCANNED = 500
"""Keys looked at in one step of a scan."""
_CHUNK = 64
"""Items of one script call: short enough (about 1 ms) not to hold up the server."""


class Outcome(StrEnum):
    WRITTEN = "written"
    DUPLICATE = "duplicate"
    """Somebody did the same before; nothing changed."""
    CLOSED = "closed"
    """The group, or this completion of it, takes no more: the caller drops its work."""


class Refill(StrEnum):
    REFILLED = "refilled"
    CLOSED = "closed"
    """The group is closed, or the response is graded or withdrawn already: nothing is to be done."""
    EXHAUSTED = "exhausted"
    """Its index was refilled three times before, so nothing was done: the caller fails the group."""


class Settlement(NamedTuple):
    """What the orchestrator has decided about a group: kept, filtered, evaluated, surplus or stale."""

    group_id: str
    state: str
    reason: str = ""
    delivery: Delivery | None = None
    """Its entry on `scored`, which is acknowledged."""
    row: str = ""
    """Id of the row of the data of which something is to be remembered with this; empty for none."""
    remembered: str = ""
    """What; empty to forget it."""


class Groups(Part):
    """Every group of the run: its prompt, its completions, its grades, its state.

    Keys: `g:<group id>`, a hash; `open`, the groups somebody still works on or waits with; `ledger`, the count of each
    state; entries of the streams `prompts`, `evaluations`, `completions` and `scored`.
    Promises, each kept by one Lua script:
    - the first completion and the first grade of (group, index) win; a completion enters its stream as it is accepted;
    - a completion whose response was lost before its grade is withdrawn alone, three times of one index at most;
    - a group is put on `scored` once, by its last grade or by its failure;
    - a discarded group (filtered, surplus, stale, failed) accepts nothing more, and what arrives late is deleted;
    - sum(ledger counts) equals the groups issued, at every moment.
    Restart: of a process, nothing is kept in it. Of Redis, all is in its append-only file. The record of a finished
    group stays until it leaves the archive (see Garbage).
    """

    def __init__(self, context: Context, payloads: Payloads, garbage: Garbage, dead_letters: DeadLetters) -> None:
        super().__init__(context)
        self._payloads = payloads
        self._garbage = garbage
        self._dead_letters = dead_letters

    async def issue(self, tasks: Sequence[pb.PromptTask], epoch: int, *, stream: str = PROMPTS) -> None:
        """Issues groups as prompts, in order. A group that was issued before is left alone. Raises Fenced."""
        calls = []
        for chunk in chunks(tasks, _CHUNK):
            call: list[str | bytes | int] = [epoch, stream]
            for task in chunk:
                if task.group_size < 1:
                    raise ValueError(f"group {task.group_id!r}: group_size is {task.group_size}, must be at least 1")
                call += (task.group_id, task.group_size, task.issued_version, task.SerializeToString())
                call.append("" if task.evaluation else f"{task.epoch} {task.cursor}")
                call.append(task.requeued_from)
            calls.append(call)
        await self._control.scripts("issue_groups", self._keys.prefix, calls)

    async def read_task(self, group_id: str) -> pb.PromptTask:
        return (await self.read_tasks([group_id]))[0]

    async def read_tasks(self, group_ids: Sequence[str]) -> list[pb.PromptTask]:
        """Raises UnknownGroup."""
        pipeline = self._control.client.pipeline(transaction=False)
        for group_id in group_ids:
            pipeline.hget(self._keys.group(group_id), "task")
        found = await self._control.run(pipeline.execute)
        run_id = self._context.run_id
        return [parse_task(run_id, group_id, data) for group_id, data in zip(group_ids, found, strict=True)]

    async def missing_indices(self, group_id: str) -> list[int]:
        """Indices without a completion, ascending; none when the group accepts no more."""
        pipeline = self._control.client.pipeline(transaction=True)
        pipeline.hmget(self._keys.group(group_id), "state", "size")
        pipeline.hkeys(self._keys.group(group_id))
        (state, size), names = await self._control.run(pipeline.execute)
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
        replies = await self._control.scripts("write_completions", self._keys.prefix, calls)
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
        await self._payloads.delete(useless)
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
                call += (delivery.message_id, completion.group_id, completion.index, delivery.data)
                call.append(grade.SerializeToString())
            calls.append(call)
        chunked = await self._control.scripts("write_grades", self._keys.prefix, calls)
        replies = [reply.decode() for chunk in chunked for reply in chunk]
        if "invalid" in replies:
            at = grades[replies.index("invalid")][1].completion
            raise BusError(
                f"grade of {at.group_id}[{at.index}]: no such completion was accepted; call groups.fail with it"
            )
        return [Outcome(reply) for reply in replies]

    async def refill(self, delivery: Delivery) -> Refill:
        """Withdraws a completion whose response was lost, and has this index alone generated again.

        Its payloads, as far as they exist, are deleted, its delivery is acknowledged.
        """
        lost = pb.Completion.FromString(delivery.data)
        source = (lost.generator_id or "unknown", lost.attempt)
        arguments = (lost.group_id, lost.index, delivery.data, delivery.message_id, _MOST_REFILLS, *source)
        outcome = Refill((await self._script("refill", new_nonce(), *arguments)).decode())
        if outcome == Refill.REFILLED:
            await self._payloads.delete([lost.payload_key, lost.text_key])
        return outcome

    async def fail(
        self,
        group_id: str,
        reason: FailureReason,
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
            raise ValueError("groups.fail: give `stream` and `delivery` together")
        message_id, data = (delivery.message_id, delivery.data) if delivery else ("", b"")
        reply = await self._dead_letters.file(group_id, reason, detail, stream or "", message_id, data)
        await self._garbage.sweep([group_id])
        return Outcome(reply.decode())

    async def read(self, group_id: str) -> GroupRecord:
        return (await self.read_many([group_id]))[0]

    async def read_many(self, group_ids: Sequence[str]) -> list[GroupRecord]:
        """Raises UnknownGroup."""
        found = await read_hashes(self._context, group_ids)
        return [parse_record(self._context.run_id, group_id, fields) for group_id, fields in found]

    async def facts(self, group_id: str) -> GroupFacts:
        """Raises UnknownGroup."""
        ((_, fields),) = await read_hashes(self._context, [group_id])
        return parse_facts(self._context.run_id, group_id, fields)

    async def stored(self) -> list[tuple[str, dict[bytes, bytes]]]:
        """Every group that has a record, with the record as `parse_facts` reads it; by id."""
        everything: dict[str, dict[bytes, bytes]] = {}
        start, client, cursor = len(self._keys.group("")), self._control.client, 0
        while True:
            cursor, keys = await self._control.run(client.scan, cursor, match=self._keys.group("*"), count=_SCANNED)
            if keys:
                everything |= dict(await read_hashes(self._context, [key.decode()[start:] for key in keys]))
            if not cursor:
                return [(group_id, fields) for group_id, fields in sorted(everything.items()) if fields]

    async def settle(self, delivery: Delivery | None, group_id: str, state: str, reason: str, epoch: int) -> Outcome:
        """As `settle_many`, for one."""
        return (await self.settle_many([Settlement(group_id, state, reason, delivery)], epoch))[0]

    async def settle_many(self, settlements: Sequence[Settlement], epoch: int) -> list[Outcome]:
        """Decides about groups and acknowledges their `scored` entries, one after the other in this order.

        Raises Fenced, LedgerError for the first whose state does not allow it (the others are settled all the same),
        ValueError, with nothing settled, for a state that is no settlement.
        """
        calls: list[Sequence[str | int]] = []
        for group_id, state, reason, delivery, row, remembered in settlements:
            if state not in SETTLED:
                raise ValueError(f"group {group_id}: cannot be settled as {state!r}; use {', '.join(sorted(SETTLED))}")
            message_id = delivery.message_id if delivery else ""
            calls.append((new_nonce(), epoch, group_id, state, reason, message_id, HISTORY, row, remembered))
        replies = await self._control.scripts("settle_group", self._keys.prefix, calls)
        if useless := [one.group_id for one in settlements if one.state != GroupState.KEPT]:
            await self._garbage.sweep(useless)
        return [Outcome(reply.decode()) for reply in replies]

    async def open_ids(self) -> list[str]:
        """Ids of the groups that are issued, generated, scored or kept, in order of issue."""
        found = await self._control.run(self._control.client.zrange, self._keys.open, 0, -1)
        return [group_id.decode() for group_id in found]

    async def read_known(self, group_ids: Sequence[str]) -> list[GroupRecord]:
        """As `read_many`, without those whose records are gone."""
        found = await read_hashes(self._context, group_ids) if group_ids else []
        return [parse_record(self._context.run_id, group_id, fields) for group_id, fields in found if fields]

    async def close(self, group_ids: Sequence[str], reason: str, epoch: int) -> None:
        """Those that are open become surplus. Raises Fenced."""
        for chunk in chunks(group_ids, _CHUNK):
            await self._script("close_groups", epoch, reason, *chunk)
            await self._garbage.sweep(chunk)

    async def close_open(self, reason: str, epoch: int) -> int:
        """Drains: every open group that is for training becomes surplus. Returns how many. Raises Fenced."""
        closed = 0
        while True:
            ids = await self._control.run(
                self._control.client.zrange, self._keys.open, 0, 0, byscore=True, offset=0, num=_CHUNK
            )
            closed += int(await self._script("close_groups", epoch, reason, *ids))
            if not ids:
                break
        await self._garbage.sweep()
        return closed

    async def ledger(self) -> dict[str, int]:
        """State -> groups in it, for every state, at one moment."""
        return counts(await self._control.run(self._control.client.hgetall, self._keys.ledger))

    async def issued_total(self) -> int:
        return int(await self._control.run(self._control.client.hget, self._keys.ledger, "total") or 0)
