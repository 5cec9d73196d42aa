"""What the parts of the bus share: the servers, the key names, this process's identity, and how a stream is read."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import DecodeError

from dapo.bus.errors import BusError, BusUnavailable
from dapo.bus.keys import Keys
from dapo.bus.server.connection import Argument, Server, block
from dapo.v1 import messages_pb2 as pb

T = TypeVar("T")
M = TypeVar("M", pb.WeightCommand, pb.WeightReply, pb.SenderOrder, pb.SenderReport, pb.StepReport)

KEY_BYTES = 128
"""What a payload's key takes beside its blob, about: its name, its entry and the allocator's rounding."""
_BLOBS = 1024
"""Payloads deleted in one step."""
_SCANNED = 1000
"""Keys looked at in one step of a scan."""
_MESSAGES = 100
"""Messages of one read."""


def new_nonce() -> str:
    """Tells a request from all others, so that the server knows it when it is repeated."""
    return secrets.token_hex(8)


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


@dataclass(frozen=True, slots=True)
class Context:
    """One run on its servers, as one process sees it. All parts of a bus are given the same."""

    control: Server
    """Holds streams, groups and records."""
    payload: Server
    """Holds the blobs of completions; may be the same server."""
    keys: Keys
    run_id: str
    instance: str
    """Tells this process from an earlier one with the same worker id."""

    @property
    def servers(self) -> list[Server]:
        """Each server once."""
        return list({server.url: server for server in (self.control, self.payload)}.values())

    async def read_stream(
        self, key: str, after: str, *, block_s: float, count: int
    ) -> list[tuple[str, dict[bytes, bytes]]]:
        """(id, fields) of up to `count` entries after id `after`, waiting at most `block_s` for the first.

        None where the server was away and has come back.
        """

        async def read(block_ms: int | None) -> list[tuple[str, dict[bytes, bytes]]]:
            client = self.control.once if block_ms else self.control.client
            found = await self.control.run(client.xread, {key: after}, count=count, block=block_ms)
            return [(entry.decode(), fields) for _, entries in found for entry, fields in entries]

        try:
            return await block(read, block_s)
        except BusUnavailable:
            await self.control.wait_until_back()
            return []

    async def read_messages(self, kind: type[M], key: str, after: str, *, block_s: float) -> list[tuple[str, M]]:
        """(id, message) of up to 100 entries after id `after`. Raises BusError for an entry of another kind."""
        messages = []
        for entry, fields in await self.read_stream(key, after, block_s=block_s, count=_MESSAGES):
            try:
                messages.append((entry, kind.FromString(fields[b"data"])))
            except (DecodeError, KeyError) as error:
                raise BusError(f"entry {entry} of {key} is no {kind.__name__}: {error}") from error
        return messages


class Part:
    """A part of the bus: what it does, it does to one run on one pair of servers."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._control = context.control
        self._payload = context.payload
        self._keys = context.keys

    async def _script(self, name: str, *args: Argument) -> Any:
        return await self._control.script(name, self._keys.prefix, *args)

    async def _append(self, key: str, most: int, *fields: str | bytes, exactly: bool = False) -> None:
        """Appends an entry to a stream that keeps the newest `most`, or about so many."""
        await self._script("append", new_nonce(), key, "=" if exactly else "~", most, *fields)

    async def _write_as(self, role: str, epoch: int, command: str, *args: Argument) -> Any:
        """A small write of the process that holds the role. Raises Fenced."""
        return await self._control.fenced_write(self._keys.prefix, role, epoch, command, *args)

    async def _unlink_all(self, *, but: Sequence[str]) -> None:
        """Deletes the run's keys on all its servers, except those that begin with one of `but`."""
        lasting = tuple(prefix.encode() for prefix in (*but, self._keys.payload_bytes))
        blobs = tuple(prefix.encode() for prefix in self._keys.blobs)
        for server in self._context.servers:
            cursor = 0
            while True:
                cursor, found = await server.run(
                    server.client.scan, cursor, match=f"{self._keys.prefix}*", count=_SCANNED
                )
                await self._delete_blobs(server, [key for key in found if key.startswith(blobs)])
                if gone := [key for key in found if not key.startswith((*lasting, *blobs))]:
                    await server.script("delete_keys", self._keys.prefix, *gone)
                if not cursor:
                    break

    async def _delete_blobs(self, server: Server, keys: Sequence[str | bytes]) -> None:
        calls = [(KEY_BYTES, *chunk) for chunk in chunks(keys, _BLOBS)]
        await server.scripts("delete_payloads", self._keys.prefix, calls)

    async def _write(self, command: str, *args: Argument) -> Any:
        """A small write that must succeed even where memory is full (see scripts.SMALL_WRITES)."""
        return await self._control.small_write(self._keys.prefix, command, *args)
