"""Watches the workers of one run: what its launcher and their heartbeats tell, judged by launch/health.py."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import NoReturn

from dapo.bus import BusError
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import Alert, ServiceChanged
from dapo.host.storage import EXIT_CODE
from dapo.spec.workloads import Role
from dapo.worker import LAST_WORDS
from services.orchestrator.launch.health import HealthAction, Judgement, RestartPolicy, judge
from services.orchestrator.launch.launcher import Launcher, LogTail, WorkerState, WorkerStatus
from services.orchestrator.runs.events import RunEvents
from services.orchestrator.runs.outcome import RunFailed

log = logging.getLogger(__name__)

_POLL_S = 0.25
_LISTEN_S = 1.0
_ANSWER_S = 5.0
"""How long a Redis that hangs keeps the workers from being looked at."""
_ENDED = frozenset({WorkerState.EXITED, WorkerState.FAILED})


class HealthMonitor:
    """Ends the run when a worker ends that should not, and tells of workers that fall silent.

    State: which workers were heard, and which of them are silent, so that each silence is told once; none of it
    outlives the process.
    """

    def __init__(
        self,
        bus: OrchestratorBus,
        launcher: Launcher,
        events: RunEvents,
        run_id: str,
        *,
        start_again: Callable[[], Awaitable[None]],
        policy: RestartPolicy = "never",
    ) -> None:
        """`start_again` has workers run that have ended, as Launcher.apply does."""
        self._bus = bus
        self._launcher = launcher
        self._events = events
        self._run_id = run_id
        self._start_again = start_again
        self._policy = policy
        self._may_end: frozenset[Role] = frozenset()
        self._heard: set[str] = set()
        self._silent: set[str] = set()
        self._listened_s = -math.inf

    def may_end(self, role: Role) -> None:
        """From now on workers of this role may exit with code 0."""
        self._may_end |= {role}

    async def has_ended(self, role: Role) -> bool:
        """Whether no worker of this role runs any more."""
        statuses = await self._launcher.observe(self._run_id)
        states = [status.state for status in statuses if status.role == role]
        return bool(states) and all(state in _ENDED for state in states)

    async def run(self) -> None:
        """Until cancelled. Raises RunFailed."""
        while True:
            statuses = await self._launcher.observe(self._run_id)
            told = self._silent
            self._silent = await self._listen(statuses)
            judged = judge(statuses, self._silent, may_end=self._may_end, policy=self._policy)
            # Those that a signal ended first: others may have ended for want of them.
            for judgement in sorted(judged, key=lambda one: (one.status.code or 0) >= 0):
                await self._act(judgement, told)
            await asyncio.sleep(_POLL_S)

    async def _act(self, judgement: Judgement, told: Collection[str]) -> None:
        status, action, reason = judgement
        if action == HealthAction.FAIL:
            await self._fail(status, reason)
        elif action == HealthAction.RESTART:
            await self._events.tell(_changed(status, "restarted", reason))
            await self._start_again()
        elif status.worker_id in self._silent and status.worker_id not in told:
            await self._events.tell(Alert(worker_id=status.worker_id, message=reason))

    async def _fail(self, status: WorkerStatus, reason: str) -> NoReturn:
        log_tail = await self._launcher.logs(self._run_id, status.worker_id)
        await self._events.tell(_changed(status, "failed", reason, log_tail))
        last = log_tail.text.rpartition("\n")[2]
        if status.code == EXIT_CODE and last.startswith(LAST_WORDS):
            raise RunFailed(f"{status.worker_id}: {last.removeprefix(LAST_WORDS)}")
        raise RunFailed(f"{reason}\nend of {log_tail.source}:\n{log_tail.text}")

    async def _listen(self, statuses: Sequence[WorkerStatus]) -> set[str]:
        """Workers whose heartbeat was heard and has expired; as before where Redis does not answer."""
        now_s = time.monotonic()
        if now_s - self._listened_s < _LISTEN_S:
            return self._silent
        self._listened_s = now_s
        by_role: dict[Role, list[str]] = {}
        for status in statuses:
            by_role.setdefault(status.role, []).append(status.worker_id)
        try:
            async with asyncio.timeout(_ANSWER_S):
                beating = [await self._bus.registry.alive(role, ids) for role, ids in by_role.items()]
        except (BusError, TimeoutError) as error:
            log.warning("the heartbeats of %s cannot be read: %s", self._run_id, error)
            return self._silent
        alive: set[str] = set().union(*beating)
        self._heard |= alive
        return self._heard - alive


def _changed(status: WorkerStatus, state: str, reason: str, log_tail: LogTail | None = None) -> ServiceChanged:
    source, text = log_tail or (None, None)
    return ServiceChanged(
        worker_id=status.worker_id, state=state, code=status.code, message=reason, log=source, log_end=text
    )
