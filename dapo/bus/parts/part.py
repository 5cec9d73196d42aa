"""What the parts of the bus share: the servers, the key names, this process's identity."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from dapo.bus.keys import Keys
from dapo.bus.server.connection import Argument, Server

T = TypeVar("T")

DEAD_LETTERS = 10_000
"""Dead letters kept, about; older ones leave."""


def chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


class Core:
    """`control` holds streams, groups and records; `payload` holds blobs and may be the same server."""

    def __init__(self, control: Server, payload: Server, run_id: str, instance: str) -> None:
        self.control = control
        self.payload = payload
        self.run_id = run_id
        self.instance = instance
        self.keys = Keys(run_id)

    async def _script(self, name: str, *args: Argument) -> Any:
        return await self.control.script(name, self.keys.prefix, *args)

    async def _control(self, command: str, *args: Argument) -> Any:
        return await self.control.control(self.keys.prefix, command, *args)

    async def _dead_letter(
        self, group_id: str, reason: str, detail: str, stream: str = "", message_id: str = "", data: bytes = b""
    ) -> bytes:
        """Files an entry nobody can process; fails `group_id`, if any, and acknowledges the message, in one step."""
        return await self._script("fail_group", group_id, reason, detail, stream, message_id, data, DEAD_LETTERS)
