"""The agents that there are, as a service saw them a second ago."""

import asyncio
import logging
import time
from collections.abc import Sequence

from dapo.bus import BusError
from dapo.bus.agents import AgentRecords, Known
from services.orchestrator.launch.launcher import LaunchError

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_STALE_S = 10.0
_ANSWER_S = 5.0


class Census:
    """For those that count agents without asking Redis. Nothing of it survives a restart: it is taken anew."""

    def __init__(self, records: AgentRecords) -> None:
        self._records = records
        self._known: Sequence[Known] = ()
        self._at = 0.0

    async def take(self) -> None:
        """Raises BusError, TimeoutError."""
        async with asyncio.timeout(_ANSWER_S):
            self._known = await self._records.agents()
        self._at = time.monotonic()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.take()
            except (BusError, TimeoutError) as error:
                log.warning("agents cannot be seen: %s", str(error) or f"no answer for {_ANSWER_S:g} s")
            await asyncio.sleep(_LOOK_S)

    @property
    def latest(self) -> Sequence[Known]:
        """Raises LaunchError where that is too old to count by."""
        if time.monotonic() - self._at > _STALE_S:
            raise LaunchError(f"agents were not seen for {_STALE_S:g} s: the Redis of the run service does not answer")
        return self._known
