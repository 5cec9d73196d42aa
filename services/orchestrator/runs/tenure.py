"""One orchestrator's lease of one run."""

import asyncio
import logging
import os
import secrets
import socket
import time

from dapo.bus import BusError, Fenced
from dapo.bus.errors import LeaseHeld
from dapo.bus.index import Desired
from dapo.bus.keys import ORCHESTRATOR, WORKERS
from dapo.bus.roles import OrchestratorBus
from services.orchestrator.instruments import LEASES_LOST, LEASES_TAKEN

log = logging.getLogger(__name__)

LEASE_S = 10.0
"""How long a leader that is not heard of still leads."""
_RENEW_S = LEASE_S / 3
_RETRY_S = 0.5
_ANSWER_S = 5.0
"""How long a Redis that may be gone is waited for."""
# Unlike the monotonic clock it goes on while the machine is suspended, where there is one.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def new_owner() -> str:
    """A name for this process as a leader, which tells people where it is."""
    return f"{socket.gethostname()}, process {os.getpid()} ({secrets.token_hex(4)})"


class Tenure:
    """The lease that makes this process the leader of a run, renewed every third of its time.

    Promises: what is written to Redis is fenced there by `epoch`. What no server can refuse, a write to the run's
    folder, comes after `secure`, which returns only while the lease cannot have lapsed by this process's own clock,
    taken before each renewal was sent. Redis may be away for longer than the lease lasts: nobody else can take it then,
    and `secure` waits for the next renewal.
    Restart: nothing is kept; a successor takes the lease once it has lapsed, under the next epoch.
    """

    def __init__(self, owner: str, *, workers_stay: bool = False) -> None:
        """`workers_stay`: those of the leader before go on, and write, until they are dismissed."""
        self.epoch = 0
        """Of the orchestrator; 0 before it is taken."""
        self._owner = owner
        self._workers_stay = workers_stay
        self._workers_term = 0
        self._bus: OrchestratorBus | None = None
        self._until = 0.0
        self._refused = False
        self._keeping: asyncio.Task[None] | None = None

    async def take(self, bus: OrchestratorBus, patience_s: float = 0.0, desired: Desired | None = None) -> None:
        """`patience_s`: how long another's lease is waited for, which may be of a process that is gone. `desired`: what
        is wanted of the run, unless that changes while the lease is waited for. From now on the bus acts for this term,
        also where this is cancelled while the lease is being given. Raises LeaseHeld, BusError."""
        deadline = time.monotonic() + patience_s
        before = None if desired is None else (await bus.runs.read()).get("desired")
        while True:
            asked = time.clock_gettime(_CLOCK)
            taking = asyncio.ensure_future(self._ask(bus, desired, before))
            try:
                return self._hold(bus, await asyncio.shield(taking), asked)
            except asyncio.CancelledError:
                # Else nobody would release it.
                await asyncio.wait({taking}, timeout=_ANSWER_S)
                if not taking.cancel() and taking.exception() is None:
                    self._hold(bus, taking.result(), asked)
                raise
            except LeaseHeld:
                if time.monotonic() >= deadline:
                    self._refused = True
                    raise
            await asyncio.sleep(_RETRY_S)

    async def _ask(self, bus: OrchestratorBus, desired: Desired | None, before: str | None) -> int:
        epoch = await bus.lease.take(self._owner, LEASE_S, desired, before, workers_stay=self._workers_stay)
        if self._workers_stay:
            # Nobody else changes it from now on.
            self._workers_term = await bus.lease.newest(WORKERS)
        return epoch

    def _hold(self, bus: OrchestratorBus, epoch: int, asked: float) -> None:
        self.epoch, self._until, self._bus = epoch, asked + LEASE_S, bus
        bus.act_for(ORCHESTRATOR, epoch)
        self._keeping = asyncio.create_task(self._keep())
        LEASES_TAKEN.inc()

    async def dismiss_workers(self) -> None:
        """Those of the leader before write nothing more. Raises Fenced, BusError."""
        assert self._bus is not None, "the lease was not taken"
        await self._bus.lease.dismiss(self.epoch)
        self._workers_term = self.epoch

    @property
    def terms(self) -> tuple[int, int]:
        """Of the run's workers, and of this leader."""
        return self._workers_term or self.epoch, self.epoch

    async def lost(self) -> None:
        """Until cancelled. Raises Fenced once another orchestrator leads the run, BusError where the lease cannot be
        renewed, since Redis is gone for too long."""
        assert self._keeping is not None, "the lease was not taken"
        await asyncio.shield(self._keeping)

    async def secure(self) -> None:
        """Before a write that no server can refuse. Raises Fenced where another one may lead the run, BusError."""
        if time.clock_gettime(_CLOCK) >= self._until:
            await self._renew()

    async def release(self) -> None:
        """Others may lead the run at once. Where Redis does not answer, the lease lapses."""
        if self._keeping is None or self._bus is None:
            return
        self._keeping.cancel()
        await asyncio.wait({self._keeping})
        self._until = 0.0
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._bus.lease.release(self.epoch)
        except (BusError, TimeoutError) as error:
            log.info("the lease lapses by itself: %s", error)

    async def may_conclude(self, *, alone: bool) -> bool:
        """Whether the run's end is this process's to write down. Where Redis does not answer, that of a run which
        others would go on with (not `alone`) is not; where it has lost what it knew, nobody has taken the lease."""
        if self._bus is None:
            return alone and not self._refused
        try:
            async with asyncio.timeout(_ANSWER_S):
                newest = await self._bus.lease.newest(ORCHESTRATOR)
                if newest == self.epoch:
                    await self.secure()
                return newest <= self.epoch
        except Fenced:
            return False
        except (BusError, TimeoutError):
            return alone or time.clock_gettime(_CLOCK) < self._until

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(_RENEW_S)
            try:
                await self._renew()
            except BusError:
                LEASES_LOST.inc()
                raise

    async def _renew(self) -> None:
        assert self._bus is not None, "the lease was not taken"
        asked = time.clock_gettime(_CLOCK)
        await self._bus.lease.renew(self._owner, self.epoch, LEASE_S)
        # Of two renewals at once the one that was sent last counts.
        self._until = max(self._until, asked + LEASE_S)
