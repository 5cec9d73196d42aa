"""Whose turn it is, within one process, to have a run come, go on or go."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

_WAIT_S = 30.0


class RunLocks:
    """One for each run: held while the run is resumed, started from the queue, ended in it or removed.

    A run's lease excludes other processes only: all that this one does has the same name there.
    """

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def of(self, run_id: str) -> asyncio.Lock:
        return self._locks.setdefault(run_id, asyncio.Lock())

    @asynccontextmanager
    async def hold(self, run_id: str) -> AsyncIterator[None]:
        """Raises TimeoutError where others have held it for so long."""
        lock = self.of(run_id)
        try:
            async with asyncio.timeout(_WAIT_S):
                await lock.acquire()
        except TimeoutError:
            raise TimeoutError(
                f"run {run_id} is being changed by another request, which has taken {_WAIT_S:g} s. Ask again"
            ) from None
        try:
            yield
        finally:
            lock.release()
