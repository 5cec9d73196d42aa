"""Blobs of completions. They may live on a server of their own and are never touched by the control plane."""

from collections.abc import Mapping, Sequence
from itertools import chain

from dapo.bus.core import Core, chunks

_CHUNK = 128


class Payloads(Core):
    def payload_key(self, group_id: str, index: int, attempt: int) -> str:
        """Key of the CompletionPayload. `attempt` is the prompt delivery's: what a dead attempt left is found by it."""
        return self.keys.payload(group_id, index, attempt)

    def text_key(self, group_id: str, index: int, attempt: int) -> str:
        """Key of the response's text (UTF-8)."""
        return self.keys.text(group_id, index, attempt)

    async def put_payloads(self, items: Mapping[str, bytes]) -> None:
        """Stores the blobs, 128 in one step. Raises BusFull; chunks before the refused one are stored."""
        for chunk in chunks(list(items.items()), _CHUNK):
            await self.payload.run(self.payload.client.execute_command, "MSET", *chain.from_iterable(chunk))

    async def get_payloads(self, keys: Sequence[str]) -> list[bytes | None]:
        """The blobs in the order of `keys`; None where there is none."""
        blobs: list[bytes | None] = []
        for chunk in chunks(keys, _CHUNK):
            blobs += await self.payload.run(self.payload.client.mget, chunk)
        return blobs

    async def delete_payloads(self, keys: Sequence[str]) -> None:
        for chunk in chunks(keys, 8 * _CHUNK):
            await self.payload.run(self.payload.client.unlink, *chunk)

    async def payload_bytes(self) -> int:
        """Memory that the payload server uses, of all its runs and streams, in bytes."""
        info = await self.payload.run(self.payload.client.info, "memory")
        return int(info["used_memory"])
