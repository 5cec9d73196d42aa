"""The embedded Valkey of a run service, in which all of its runs are."""

import asyncio
import fcntl
import logging
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.events import Alert
from dapo.spec.tree.resources import RedisResources, RestartSpec
from services.orchestrator.launch.health import RestartBudget
from services.orchestrator.runs.redis import trouble

log = logging.getLogger(__name__)

FOLDER = "redis"
"""Below the service's directory."""
_UNLIMITED = 0
"""Each run keeps to its own resources.redis.memory_mib, and how many there will be nobody knows."""


class ServiceValkey:
    """One for all runs of a service, in STATE_DIR/redis. Its data outlive the service; while it is open no other
    service can open the same directory."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = state_dir / FOLDER
        self._valkey = EmbeddedValkey(self._folder, _UNLIMITED)
        self._lock: int | None = None

    @property
    def url(self) -> str:
        """Once it is open."""
        return self._valkey.url

    async def open(self) -> None:
        """Raises OSError, also where another service has the directory; BusUnavailable."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"{self._folder} is in use by another run service on this machine: give both one Redis (REDIS_URL), or "
                "this one another --state-dir"
            ) from None
        await asyncio.to_thread(self._valkey.start)

    async def keep(self, tell: Callable[[Alert], Awaitable[None]]) -> None:
        """Start it again, at its address and with its data, whenever it has ended or does not answer. Until
        cancelled, or until it has ended too often: then runs end as where Redis is gone. Raises BusUnavailable when it
        does not start."""
        spec = RestartSpec()
        budget = RestartBudget(spec)
        while True:
            reason = await trouble(self._valkey, RedisResources().outage_s)
            log.error("%s", reason)
            if budget.spend(time.monotonic()) is None:
                log.critical("it is not started again: it was %d times within %g s", budget.used, spec.window_s)
                return
            await asyncio.to_thread(self._valkey.restart)
            what, _, _ = reason.partition("\n")
            times = f"restart {budget.used} of {spec.limit}"
            await tell(Alert(cause="redis_restarted", message=f"{what}, and was started again with its data ({times})"))

    async def close(self) -> None:
        await asyncio.to_thread(self._valkey.stop)
        if self._lock is not None:
            os.close(self._lock)
