"""A client of HTTP that computes as little as it can, so that a load of many requests costs the machine little."""

import asyncio
from typing import Self

Address = tuple[str, int]


class Unanswered(RuntimeError):
    """The service answered with another status than 200."""


class Connection:
    """One that is kept open, for one request at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, address: Address) -> Self:
        return cls(*await asyncio.open_connection(*address))

    async def begin(self, path: str) -> bytes:
        """Send a GET; the head of its answer. Raises Unanswered, OSError."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = await self._reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head[:16]:
            raise Unanswered(f"{path}: {head.decode(errors='replace').splitlines()[0]}")
        return head

    async def get(self, path: str) -> bytes:
        """The body. Raises Unanswered, OSError."""
        head = (await self.begin(path)).lower()
        length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        return await self._reader.readexactly(length)

    async def chunk(self) -> bytes:
        """What has come since; empty at the end."""
        return await self._reader.read(1 << 16)

    async def close(self) -> None:
        self._writer.close()
        await self._writer.wait_closed()


async def watch(address: Address, path: str, seen: list[int]) -> None:
    """Read a stream of events until cancelled, and count them in `seen`."""
    connection = await Connection.open(address)
    try:
        await connection.begin(path)
        while chunk := await connection.chunk():
            seen[0] += chunk.count(b"\nevent: ")
    finally:
        await connection.close()
