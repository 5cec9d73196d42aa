"""The bus: everything the services say to each other, over one Redis (and one for payloads, if so wished)."""

import secrets
from typing import Self

from dapo.bus.parts.batches import Batches
from dapo.bus.parts.streams import Streams
from dapo.bus.server.connection import Server

_PROCESS = secrets.token_hex(6)


class Bus(Batches, Streams):
    """One run's view of the server. Safe for concurrent use within one event loop, and bound to that loop."""

    @classmethod
    async def connect(cls, url: str, run_id: str, *, payload_url: str | None = None, instance: str = _PROCESS) -> Self:
        """Connects and loads the scripts.

        `instance` tells a worker from its predecessor of the same id; all buses of one process share theirs.
        Raises BusUnavailable naming the URL (without its password) and the cure.
        """
        control = Server(url)
        payload = control if payload_url in (None, url) else Server(payload_url)
        bus = cls(control, payload, run_id, instance)
        try:
            await control.check()
            await control.load_scripts()
            if payload is not control:
                await payload.check()
        except BaseException:
            await bus.close()
            raise
        return bus

    async def close(self) -> None:
        await self.control.close()
        if self.payload is not self.control:
            await self.payload.close()
