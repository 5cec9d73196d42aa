"""Consuming: consumer groups, acknowledgement by effect, and taking over what dead consumers left."""

import asyncio
from collections.abc import Awaitable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError

from dapo.bus.errors import BusError, BusUnavailable, NoConsumerGroup
from dapo.bus.failures import FailureReason
from dapo.bus.keys import COMPLETIONS, GROUP_ID, READERS
from dapo.bus.ledger import OPEN
from dapo.bus.parts.dead_letters import DeadLetters
from dapo.bus.parts.part import Context, Part
from dapo.bus.parts.registry import HEARTBEAT_TTL_S, Registry
from dapo.bus.server.connection import BLOCK_SLICE_S, block
from dapo.v1 import messages_pb2 as pb

_LOOKED_AT = 256
"""Entries at the beginning of a stream."""
_SEARCHED = 5_000
"""Entries among which those of one group are looked for."""
Entry = tuple[bytes, int, int, dict[bytes, bytes]]
"""Message id, deliveries, losses, fields."""


class Delivery(NamedTuple):
    """An entry in the hands of one consumer. It stays pending until its effect acknowledges it."""

    message_id: str
    data: bytes
    """The group id (prompts, scored) or a serialised Completion (completions)."""
    attempt: int
    """How often the entry (of a prompt: its group) was delivered, from 1."""
    losses: int = 0
    """Of a prompt: deliveries in a row whose generator or engine was lost before a response was written."""


class Holder(NamedTuple):
    """In whose hands an entry is."""

    stream: str
    group_id: str
    response: int | None
    """Index of the one that waits for its grade; None: the entry is the whole group's."""
    worker_id: str
    """Empty: nobody has taken it."""
    alive: bool
    held_s: float
    """Since it was handed to the worker, or written to the stream."""


@dataclass
class _Doubt:
    """Deliveries made since `began` may be lost, except those `handed` out; times of the event loop's clock."""

    began: float
    failed: float
    blocked_until: float
    """Until then the server may still serve a read that nobody awaits any more."""
    handed: set[str] = field(default_factory=set)


class Streams(Part):
    """The streams that are consumed: prompts, evaluations, completions, scored.

    Keys: `<stream>`, each with one consumer group, named after the role that reads it.
    Promises: an entry is in the hands of one consumer, stays pending until its effect acknowledges it, and is taken
    over once that consumer is dead, or at once when it is handed back: it then stands last on the stream, under a new
    message id. A consumer is named `<worker id>/<instance>`; it is alive while its worker's
    heartbeat exists and names that instance, so a worker that was restarted under its old name is told apart from its
    predecessor, whose entries are free to claim. A delivery whose reply was lost on the way (the connection broke, the
    read was cancelled) would stay pending with a living consumer for ever: after such a failure the entries delivered
    since, yet not handed out, are fetched again.
    Restart: of a process, another claims its entries. Of Redis, pending entries are on disk; where they were lost, the
    next call raises NoConsumerGroup and the one after it starts anew. Which deliveries are in doubt is kept in memory
    only.
    """

    def __init__(self, context: Context, registry: Registry, dead_letters: DeadLetters) -> None:
        super().__init__(context)
        self._registry = registry
        self._dead_letters = dead_letters
        self._doubts: dict[tuple[str, str], _Doubt] = {}
        self._settled = 0.0
        """When the heartbeats of all who live have come again, after an outage."""
        self._started: set[tuple[str, str]] = set()

    async def consume(self, stream: str, worker_id: str, *, count: int, block_s: float) -> list[Delivery]:
        """Up to `count` new entries, waiting at most `block_s` for the first.

        An entry that cannot be read goes to the dead letters, and its group fails. The worker is alive by its own
        heartbeat; this call makes only the first one. None where the server was away and has come back.
        """
        await self._start(stream, worker_id)

        async def read(block_ms: int | None) -> list[Delivery]:
            fetch = self._fetch(stream, worker_id, count, block_ms)
            return await self._guard(stream, worker_id, fetch, block_s=(block_ms or 0) / 1000)

        try:
            return await self._recover(stream, worker_id) or await block(read, block_s)
        except BusUnavailable:
            await self._outlast()
            return []

    async def claim_dead(self, stream: str, role: str, worker_id: str, *, count: int) -> list[Delivery]:
        """Takes over up to `count` pending entries of dead consumers: those whose heartbeat expired, never the idle.

        None for a heartbeat's time after an outage of the server, in which those of the living may have expired, too.
        Raises ValueError when `role` is not the one that consumes `stream`.
        """
        if role != READERS.get(stream):
            raise ValueError(f"stream {stream!r} is consumed by role {READERS.get(stream)!r}, not {role!r}")
        await self._start(stream, worker_id)
        if asyncio.get_running_loop().time() < self._settled:
            return []
        try:
            return await self._guard(stream, worker_id, self._claim(stream, worker_id, count))
        except BusUnavailable:
            await self._outlast()
            return []

    async def oldest(self, stream: str) -> Holder | None:
        """Who has the oldest entry that nobody has done with. One of a closed group, which holds up nobody, is passed
        over."""
        found = await self._control.run(self._control.client.xrange, self._keys.stream(stream), count=_LOOKED_AT)
        pipeline = self._control.client.pipeline(transaction=False)
        for _, fields in found:
            pipeline.hget(self._keys.group(_group_of(fields)), "state")
        states = await self._control.run(pipeline.execute)
        for entry, state in zip(found, states, strict=True):
            if state is not None and state.decode() in OPEN:
                return (await self._holders(stream, [entry]))[0]
        return None

    async def holders(self, stream: str, group_id: str, since_ms: int) -> list[Holder]:
        """Who holds the entries of a group that were written at `since_ms` (Unix time) or later; those of the next
        5,000 entries, for whoever asks after a group."""
        reading, start = self._control.client.xrange, f"{since_ms}-0"
        found = await self._control.run(reading, self._keys.stream(stream), start, "+", count=_SEARCHED)
        return await self._holders(stream, [entry for entry in found if _group_of(entry[1]) == group_id])

    async def _holders(self, stream: str, entries: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[Holder]:
        key, role = self._keys.stream(stream), READERS[stream]
        pipeline = self._control.client.pipeline(transaction=False)
        for entry, _ in entries:
            pipeline.xpending_range(key, role, entry, entry, 1)
        pipeline.time()
        # Where nobody has read the stream yet, there is no consumer group and each reply is an error.
        *pending, (seconds, micros) = await self._control.run(pipeline.execute, False)
        now_ms = seconds * 1000 + micros // 1000
        return [
            await self._holder(stream, entry, fields, found if isinstance(found, list) else [], now_ms)
            for (entry, fields), found in zip(entries, pending, strict=True)
        ]

    async def _holder(
        self, stream: str, entry: bytes, fields: dict[bytes, bytes], pending: list[dict[str, Any]], now_ms: int
    ) -> Holder:
        group_id, index = _group_of(fields), _index_of(fields) if stream == COMPLETIONS else None
        if not pending:
            return Holder(stream, group_id, index, "", False, (now_ms - int(entry.partition(b"-")[0])) / 1000)
        worker_id, _, instance = pending[0]["consumer"].decode().rpartition("/")
        beat = await self._control.run(self._control.client.get, self._keys.heartbeat(READERS[stream], worker_id))
        alive = beat is not None and beat.decode() == instance
        return Holder(stream, group_id, index, worker_id, alive, pending[0]["time_since_delivered"] / 1000)

    async def length(self, stream: str) -> int:
        """Entries that nobody has done with."""
        return int(await self._control.run(self._control.client.xlen, self._keys.stream(stream)))

    async def hand_back(self, stream: str, worker_id: str, delivery: Delivery, *, lost: bool) -> None:
        """Gives an entry to whoever reads next. Nothing happens where it is no longer in the hands of this worker.

        `lost`: the engine that ran it failed; see `Delivery.losses`.
        """
        await self._hand_back(stream, worker_id, lost, delivery.message_id)

    async def leave(self, stream: str, worker_id: str) -> None:
        """Hands back all that the worker holds, and forgets its consumer. It reads no more.

        A blocking read that was cancelled is waited out first: the server may learn only later that its connection was
        closed, and would serve it what is handed back here.
        """
        if (stream, worker_id) in self._started:
            if (doubt := self._doubts.get((stream, worker_id))) is not None:
                await asyncio.sleep(doubt.blocked_until - asyncio.get_running_loop().time())
            await self._hand_back(stream, worker_id, False)

    async def _hand_back(self, stream: str, worker_id: str, lost: bool, *message_ids: str) -> None:
        await self._script("hand_back", stream, worker_id, self._context.instance, int(lost), *message_ids)

    async def _outlast(self) -> None:
        await self._control.wait_until_back()
        self._settled = asyncio.get_running_loop().time() + HEARTBEAT_TTL_S

    async def _start(self, stream: str, worker_id: str) -> None:
        """Before the first read: the consumer group, and a heartbeat, so that nobody is seen dead at birth."""
        if (stream, worker_id) in self._started:
            return
        key, role = self._keys.stream(stream), READERS[stream]
        await self._registry.beat_first(role, worker_id)
        try:
            await self._write("XGROUP", "CREATE", key, role, "0", "MKSTREAM")
        except BusError as error:
            if "BUSYGROUP" not in str(error):
                raise
        self._started.add((stream, worker_id))

    async def _recover(self, stream: str, worker_id: str) -> list[Delivery]:
        """Entries whose delivery was lost. Waits until no read of before the failure can still be served."""
        doubt = self._doubts.get((stream, worker_id))
        now = asyncio.get_running_loop().time()
        if doubt is None or now < doubt.failed + BLOCK_SLICE_S:
            return []
        found = await self._guard(stream, worker_id, self._claim_own(stream, worker_id, doubt))
        del self._doubts[stream, worker_id]
        return found

    async def _fetch(self, stream: str, worker_id: str, count: int, block_ms: int | None) -> list[Delivery]:
        consumer, source = f"{worker_id}/{self._context.instance}", {self._keys.stream(stream): ">"}
        reading = self._control.once.xreadgroup
        found = await self._control.run(reading, READERS[stream], consumer, source, count=count, block=block_ms)
        read = [(entry, fields) for _, entries in found for entry, fields in entries]
        return await self._sound(
            stream,
            [(entry, int(fields.get(b"delivery", 1)), int(fields.get(b"losses", 0)), fields) for entry, fields in read],
        )

    async def _claim_own(self, stream: str, worker_id: str, doubt: _Doubt) -> list[Delivery]:
        # By the server's clock, as the script may have to be sent again before it runs.
        seconds, microseconds = await self._control.run(self._control.once.time)
        ago_s = asyncio.get_running_loop().time() - doubt.began
        since_ms = int((seconds + microseconds / 1e6 - ago_s) * 1000)
        return await self._claim(stream, worker_id, 0, since_ms, doubt.handed)

    async def _claim(
        self, stream: str, worker_id: str, count: int, since_ms: int = 0, handed: Collection[str] = ()
    ) -> list[Delivery]:
        claimed = await self._script("claim", stream, worker_id, self._context.instance, count, since_ms, *handed)
        entries = [(entry, n, m, dict(zip(flat[::2], flat[1::2], strict=True))) for entry, n, m, *flat in claimed]
        return await self._sound(stream, entries)

    async def _guard(
        self, stream: str, worker_id: str, read: Awaitable[list[Delivery]], *, block_s: float = 0.0
    ) -> list[Delivery]:
        """Awaits a read, which waits at the server for `block_s`; keeps account of what may be lost when it fails."""
        began = asyncio.get_running_loop().time()
        try:
            found = await read
        except NoConsumerGroup:
            self._started.discard((stream, worker_id))  # the server lost its data; the next call starts anew
            raise
        except (BusUnavailable, asyncio.CancelledError):
            failed = asyncio.get_running_loop().time()
            lost = self._doubts.setdefault((stream, worker_id), _Doubt(began, failed, failed))
            lost.failed, lost.blocked_until = failed, max(lost.blocked_until, failed + block_s)
            raise
        doubt = self._doubts.get((stream, worker_id))
        if doubt is not None:
            doubt.handed.update(delivery.message_id for delivery in found)
        return found

    async def _sound(self, stream: str, entries: list[Entry]) -> list[Delivery]:
        """The entries that can be read; the others become dead letters."""
        sound = []
        for entry, attempt, losses, fields in entries:
            message_id, data = entry.decode(), fields.get(b"data", b"")
            fault = _fault(stream, data)
            if fault is None:
                sound.append(Delivery(message_id, data, attempt, losses))
            else:
                group = fields.get(b"group", b"")
                group_id = group.decode() if GROUP_ID.fullmatch(group) else ""
                await self._dead_letters.file(group_id, FailureReason.MALFORMED, fault, stream, message_id, data)
        return sound


def _fault(stream: str, data: bytes) -> str | None:
    """Why an entry's data cannot be used, or None."""
    group = data
    if stream == COMPLETIONS:
        try:
            group = pb.Completion.FromString(data).group_id.encode()
        except DecodeError as error:
            return f"no Completion: {error}"
    return None if GROUP_ID.fullmatch(group) else f"{group[:40]!r} is no group id"


def _group_of(fields: Mapping[bytes, bytes]) -> str:
    """Entries of completions name their group beside the data; the others are its id."""
    return fields.get(b"group", fields.get(b"data", b"")).decode(errors="replace")


def _index_of(fields: Mapping[bytes, bytes]) -> int | None:
    """None where the completion cannot be read."""
    try:
        return pb.Completion.FromString(fields.get(b"data", b"")).index
    except DecodeError:
        return None
