"""The Redis of one run: a server of others, or a Valkey of its own in the run's folder."""

import asyncio
import logging
import secrets
import shutil
import time
from pathlib import Path

from dapo.algo.progress import Looks
from dapo.bus import Bus, BusError, BusUnavailable
from dapo.bus.keys import ORCHESTRATOR
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.events import Alert, Emit
from dapo.records.folder import RunFolder
from dapo.spec.budget import server_memory_mib
from dapo.spec.tree.resources import ResourcesSpec
from services.orchestrator.launch.health import RestartBudget
from services.orchestrator.runs.outcome import RunFailed

log = logging.getLogger(__name__)

_CLEANING_S = 10.0
_PURGE_S = 60.0
_RETRY_S = 1.0
_SILENCE_S = 5.0
"""For less no server is taken for frozen."""


class RunRedis:
    """Provides the run's bus and takes it down again.

    What a run has in Redis goes only when it has succeeded, or when it is purged: an embedded Valkey's data in
    RUN_DIR/redis, and on a server of others all but record, events, ledger and dead letters.
    """

    def __init__(self, run_id: str, run_dir: Path, resources: ResourcesSpec, default_url: str | None) -> None:
        """`default_url`: of the service's server, where the spec names none; None: an embedded one is started."""
        self._run_id = run_id
        self._folder = RunFolder(run_dir).redis
        self._resources = resources.redis
        self._restarts = resources.restarts
        self._external = resources.redis.url or default_url
        self._valkey: EmbeddedValkey | None = None
        self._start: asyncio.Future[EmbeddedValkey] | None = None
        self.bus: Bus | None = None
        """While it is open."""

    @property
    def is_own(self) -> bool:
        """Nobody else uses the server."""
        return self._external is None

    @property
    def url(self) -> str:
        """Once it is open."""
        if self._external is not None:
            return self._external
        assert self._valkey is not None
        return self._valkey.url

    async def open(self, patience_s: float = 0.0) -> Bus:
        """`patience_s`: how long a server of others is tried again that does not answer. Raises BusUnavailable,
        OSError."""
        if self._external is None:
            self._folder.mkdir(exist_ok=True)
            self._valkey = EmbeddedValkey(self._folder, server_memory_mib(self._resources.memory_mib))
            self._start = asyncio.ensure_future(asyncio.to_thread(self._valkey.start))
            await asyncio.shield(self._start)
        deadline = time.monotonic() + patience_s
        while True:
            try:
                self.bus = await self._connect()
                return self.bus
            except BusUnavailable as error:
                if self._external is None or time.monotonic() >= deadline:
                    raise
                log.warning("run %s waits for its Redis, %.0f s at most: %s", self._run_id, patience_s, error)
            await asyncio.sleep(_RETRY_S)

    async def _connect(self) -> Bus:
        # Of two starts of a run in one process the second must see what the first has left as a dead consumer's.
        return await Bus.connect(
            self.url,
            self._run_id,
            payload_url=self._resources.payload_url,
            instance=secrets.token_hex(6),
            outage_s=self._resources.outage_s,
        )

    async def keep(self, emit: Emit) -> None:
        """Start the embedded Valkey again, at its address and with its data, whenever it has ended, or runs but has not
        answered for long. Until cancelled.

        At once, since everything waits for it, and as often as `resources.restarts` allows. Raises RunFailed when it
        ends once more, BusUnavailable when it does not start.
        """
        if (valkey := self._valkey) is None:
            return
        budget, spec = RestartBudget(self._restarts), self._restarts
        while True:
            reason = await trouble(valkey, self._resources.outage_s)
            log.error("%s", reason)
            if budget.spend(time.monotonic()) is None:
                if self.bus is not None:
                    self.bus.give_up()
                raise RunFailed(f"after {budget.used} restarts within {spec.window_s:g} s {reason}")
            self._start = asyncio.ensure_future(asyncio.to_thread(valkey.restart))
            await asyncio.shield(self._start)
            what, _, _ = reason.partition("\n")
            message = f"{what}, and was started again with its data (restart {budget.used} of {spec.limit})"
            await emit(Alert(cause="redis_restarted", message=message))

    async def failure(self) -> str | None:
        """How the embedded Valkey ended, if it did: the services' own errors only say that Redis is gone."""
        return None if self._valkey is None else await asyncio.to_thread(self._valkey.failure)

    async def clean(self) -> None:
        """Of a run that has succeeded: delete what it needs no more from servers of others."""
        if (bus := self.bus) is not None and (self._valkey is None or self._resources.payload_url):
            await self._clean(bus)

    async def close(self, *, succeeded: bool) -> None:
        if self.bus is not None:
            bus, self.bus = self.bus, None
            await bus.close()
        if self._valkey is not None and self._start is not None:
            # A stop may come while it is starting.
            await asyncio.wait({self._start})
            await asyncio.to_thread(self._valkey.stop)
            if succeeded:
                await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def purge(self, owner: str) -> None:
        """Delete all that the run has in Redis; for one that has ended. Raises LeaseHeld where somebody else than
        `owner` leads it, BusError, OSError."""
        if self._external is not None or self._resources.payload_url:
            bus = await self.open()
            try:
                bus.act_for(ORCHESTRATOR, await bus.lease.take(owner, _PURGE_S))
                await bus.runs.delete()
            finally:
                await self.close(succeeded=True)
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _clean(self, bus: Bus) -> None:
        try:
            async with asyncio.timeout(_CLEANING_S):
                await bus.runs.delete_work()
        except (BusError, TimeoutError) as error:
            log.warning("keys %s* are left in Redis: %s", bus.keys.prefix, str(error) or f"{_CLEANING_S:.0f} s passed")


async def trouble(valkey: EmbeddedValkey, outage_s: float) -> str:
    """Return once it has ended, or has not answered for a third of the time that all wait for it: how."""
    bound_s, silent_s, looks = max(_SILENCE_S, outage_s / 3), 0.0, Looks()
    while (reason := await asyncio.to_thread(valkey.failure)) is None:
        passed_s = looks.passed(time.monotonic())
        silent_s = 0.0 if await asyncio.to_thread(valkey.answers) else silent_s + passed_s
        if silent_s >= bound_s:
            return f"the embedded Valkey did not answer for {silent_s:.0f} s"
    return reason
