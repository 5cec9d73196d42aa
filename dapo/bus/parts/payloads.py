"""Blobs of completions, apart from the control plane."""

from collections.abc import Mapping, Sequence
from itertools import chain

from dapo.bus.parts.part import Part, chunks

_CHUNK = 128
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

    Keys, on the payload server: `p:<group>:<index>:<attempt>` (CompletionPayload), `t:…` (the text, UTF-8).
    Promises: a blob is written before the completion that names it, is never changed, and is deleted once its group is
    garbage. The orchestrator reads texts only.
    Restart: of a process, what it wrote without announcing it is swept with its group. Of Redis, what its append-only
    file holds.
    """

    def payload_key(self, group_id: str, index: int, attempt: int) -> str:
        """Key of the CompletionPayload; `attempt` as by `attempt_number`."""
        return self._keys.payload(group_id, index, attempt)

    def text_key(self, group_id: str, index: int, attempt: int) -> str:
        """Key of the response's text (UTF-8)."""
        return self._keys.text(group_id, index, attempt)

    async def put(self, items: Mapping[str, bytes]) -> None:
        """Stores the blobs, 128 in one step. Raises BusFull; chunks before the refused one are stored."""
        for chunk in chunks(list(items.items()), _CHUNK):
            await self._payload.run(self._payload.client.execute_command, "MSET", *chain.from_iterable(chunk))

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
        for chunk in chunks(keys, 8 * _CHUNK):
            await self._payload.run(self._payload.client.unlink, *chunk)

    async def used_bytes(self) -> int:
        """Memory that the payload server uses, of all its runs and streams, in bytes."""
        info = await self._payload.run(self._payload.client.info, "memory")
        return int(info["used_memory"])
