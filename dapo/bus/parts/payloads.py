"""Blobs of completions, apart from the control plane."""

from collections.abc import Mapping, Sequence

from dapo.bus.parts.part import KEY_BYTES, Part, chunks
from dapo.bus.server.connection import Argument

_CHUNK = 128
_STORED = 32
"""Blobs of one script call: of 200 kB each it takes some 20 ms."""
RETRIES = 10
"""Tries at one delivery of a prompt. The attempt in a payload's key counts them over all deliveries, so two workers
that hold the same prompt never write the same key, and what a dead one left can be found."""


def attempt_number(delivery: int, retry: int) -> int:
    """`delivery` counts from 1, `retry` from 0 to RETRIES − 1."""
    return (delivery - 1) * RETRIES + retry


def attempts_until(delivery: int) -> range:
    """Every attempt that the first `delivery` deliveries of a prompt can have made."""
    return range(attempt_number(delivery + 1, 0))


class Payloads(Part):
    """Token ids with their log-probabilities, and texts: one blob each for a response.

    Keys, on the payload server: `p:<group>:<index>:<attempt>` (CompletionPayload), `t:…` (the text, UTF-8),
    `p:<group>:<index>:partial` (CompletionPayload of an unfinished response), `payload_bytes` (what they take).
    Promises: a blob is written before the completion that names it, is never changed (a partial one may get longer),
    and is deleted once its group is garbage; the scripts that write and delete blobs move the count in the same step.
    The orchestrator reads texts only.
    Restart: of a process, what it wrote without announcing it is swept with its group. Of Redis, what its append-only
    file holds.
    """

    def payload_key(self, group_id: str, index: int, attempt: int) -> str:
        """Key of the CompletionPayload; `attempt` as by `attempt_number`."""
        return self._keys.payload(group_id, index, attempt)

    def partial_key(self, group_id: str, index: int) -> str:
        """Key of what an unfinished response has, for whoever gets the prompt next."""
        return self._keys.partial(group_id, index)

    def text_key(self, group_id: str, index: int, attempt: int) -> str:
        """Key of the response's text (UTF-8)."""
        return self._keys.text(group_id, index, attempt)

    async def put(self, items: Mapping[str, bytes]) -> None:
        """Stores the blobs, 32 in one step. Raises BusFull; blobs of other steps may be stored then."""
        calls = []
        for step in chunks(list(items.items()), _STORED):
            call: list[Argument] = [KEY_BYTES]
            for key, blob in step:
                call += (key, blob)
            calls.append(call)
        await self._payload.scripts("put_payloads", self._keys.prefix, calls)

    async def get(self, keys: Sequence[str]) -> list[bytes | None]:
        """The blobs in the order of `keys`; None where there is none."""
        blobs: list[bytes | None] = []
        for chunk in chunks(keys, _CHUNK):
            blobs += await self._payload.run(self._payload.client.mget, chunk)
        return blobs

    async def count(self, keys: Sequence[str]) -> int:
        """How many of them are there."""
        return int(await self._payload.run(self._payload.client.exists, *keys))

    async def delete(self, keys: Sequence[str]) -> None:
        await self._delete_blobs(self._payload, keys)

    async def used_bytes(self) -> int:
        """Bytes that the run's payloads take: of each blob its length and KEY_BYTES. Exact at every moment."""
        return int(await self._payload.run(self._payload.client.get, self._keys.payload_bytes) or 0)

    async def refuses(self) -> str:
        """The server, as it may be shown, that has reached a limit of its own and takes no more of any run; else empty.

        That of the payloads, or of the streams.
        """
        for server in self._context.servers:
            info = await server.run(server.client.info, "memory")
            if 0 < int(info["maxmemory"]) <= int(info["used_memory"]):
                return server.shown
        return ""
