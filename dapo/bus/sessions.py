"""Sessions of the run service's web page, for all of its instances."""

from typing import Self

from dapo.bus.keys import SESSIONS
from dapo.bus.server.connection import Server

_OUTAGE_S = 2.0


class SessionRecords:
    """Small texts that are forgotten after a time.

    Keys: `dapo:sessions:<key>`, a string each, with a time to live.
    Promises: as of a Bus; each write stands by itself.
    Restart: all of it is in Redis.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    @classmethod
    async def connect(cls, url: str) -> Self:
        """Raises BusUnavailable."""
        server = Server(url, _OUTAGE_S)
        try:
            await server.check()
        except BaseException:
            await server.close()
            raise
        return cls(server)

    async def put(self, key: str, text: str, lifetime_s: int) -> None:
        """Raises BusError, as all methods do."""
        await self._server.run(self._server.client.set, SESSIONS + key, text, ex=lifetime_s)

    async def get(self, key: str) -> str | None:
        """None where there is none, or none any more."""
        found = await self._server.run(self._server.client.get, SESSIONS + key)
        return None if found is None else found.decode()

    async def remove(self, key: str) -> None:
        await self._server.run(self._server.client.delete, SESSIONS + key)

    async def close(self) -> None:
        await self._server.close()
