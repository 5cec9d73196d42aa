"""Watches the workers of one run: what its launcher and their heartbeats tell, judged by launch/health.py."""

import asyncio
import logging
import math
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NoReturn

from dapo.algo.progress import Looks
from dapo.bus import BusError
from dapo.bus.parts.registry import HEARTBEAT_TTL_S
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import Alert, ServiceChanged
from dapo.host.storage import EXIT_CODE
from dapo.spec.tree.resources import RestartSpec
from dapo.spec.workloads import Role
from dapo.telemetry.logs import readable
from dapo.worker import last_words
from services.orchestrator.launch.health import HealthAction, Judgement, RestartBudget, judge
from services.orchestrator.launch.launcher import Launcher, LaunchError, LogTail, WorkerState, WorkerStatus
from services.orchestrator.runs.events import RunEvents
from services.orchestrator.runs.outcome import RunFailed

log = logging.getLogger(__name__)

_POLL_S = 0.25
_LISTEN_S = 1.0
_ANSWER_S = 5.0
"""How long a Redis that hangs keeps the workers from being looked at."""


@dataclass(frozen=True)
class _Restart:
    """One that is due."""

    worker_ids: Sequence[str]
    instance: str
    """Of the worker for whose sake it is."""
    at_s: float


class HealthMonitor:
    """Starts workers again that ended or fell silent, tells of it, and ends the run where that does not help.

    A generator or a verifier is started alone; all ranks of the learner together, since none can go on without the
    others. Such a unit has a RestartBudget; where that is spent the run fails, unless others do the same work: then the
    unit is started again after the longest pause each time. So it is where the launcher could not start it.

    State: which instance of each worker was seen last, how long it was listened to, which of them were heard, since
    when they are silent, the budgets and the restarts that are due; none of it outlives the process.
    """

    def __init__(
        self, bus: OrchestratorBus, launcher: Launcher, events: RunEvents, run_id: str, restarts: RestartSpec
    ) -> None:
        self._bus = bus
        self._launcher = launcher
        self._events = events
        self._run_id = run_id
        self._spec = restarts
        self._may_end: frozenset[Role] = frozenset()
        self._proven = False
        self._instances: dict[str, str] = {}
        self._looks = Looks()
        self._listened_to: dict[str, float] = {}
        """Those that run and were not heard by now: for how many seconds they could have been."""
        self._unheard: dict[str, float] = {}
        self._heard: set[str] = set()
        self._silent_since: dict[str, float] = {}
        self._waiting: dict[str, str] = {}
        """Of workers that are not started yet: for what, as was told last."""
        self._listened_s = -math.inf
        self._budgets: dict[str, RestartBudget] = {}
        self._due: dict[str, _Restart] = {}
        self.restarts = 0
        """Units started again so far."""
        self.statuses: Sequence[WorkerStatus] = ()
        """As they were seen last, at most a moment ago."""

    def may_end(self, role: Role) -> None:
        """From now on workers of this role may exit with code 0."""
        self._may_end |= {role}

    def prove(self) -> None:
        """The run serves weights: from now on a worker that leaves with an error is started again, too."""
        self._proven = True

    async def has_left(self, role: Role) -> bool:
        """Whether every worker of this role has exited with code 0."""
        statuses = await self._launcher.observe(self._run_id)
        mine = [status for status in statuses if status.role == role]
        return bool(mine) and all(status.state == WorkerState.EXITED and status.code == 0 for status in mine)

    async def run(self) -> None:
        """Until cancelled. Raises RunFailed, LaunchError."""
        while True:
            self.statuses = statuses = await self._launcher.observe(self._run_id)
            self._forget_old(statuses)
            told = frozenset(self._silent_since)
            await self._listen(statuses)
            now_s = time.monotonic()
            silences = {worker: now_s - since for worker, since in self._silent_since.items()}
            judged = judge(
                statuses, silences, self._unheard, may_end=self._may_end, proven=self._proven, spec=self._spec
            )
            # Those that a signal ended first: others may have ended for want of them.
            for judgement in sorted(judged, key=lambda one: (one.status.code or 0) >= 0):
                await self._act(judgement, statuses, told)
            await self._start_due()
            await asyncio.sleep(_POLL_S)

    async def replace(self, role: Role, worker_ids: Collection[str], reason: str) -> None:
        """Start workers of the role again (none named: all) that run but do not get on. Raises RunFailed."""
        statuses = await self._launcher.observe(self._run_id)
        for status in statuses:
            named = status.worker_id in worker_ids if worker_ids else status.role == role
            if named and _unit(status) not in self._due:
                await self._plan_restart(status, f"{status.worker_id} does not get on: {reason}", statuses)

    async def _act(self, judgement: Judgement, statuses: Sequence[WorkerStatus], told: Collection[str]) -> None:
        status, action, reason = judgement
        if _unit(status) in self._due:
            return
        if action == HealthAction.FAIL:
            await self._fail(status, reason)
        elif action == HealthAction.RESTART:
            await self._plan_restart(status, reason, statuses)
        elif status.worker_id in self._silent_since and status.worker_id not in told:
            await self._events.tell(Alert(worker_id=status.worker_id, message=reason))
        elif status.state == WorkerState.STARTING:
            await self._tell_of_waiting(status, reason)

    async def _tell_of_waiting(self, status: WorkerStatus, reason: str) -> None:
        """Once for each thing that it waits for: what the cluster adds in brackets changes all the time."""
        what, _, _ = reason.partition(" (")
        if what and self._waiting.get(status.worker_id) != what:
            await self._events.tell(Alert(worker_id=status.worker_id, cause="not_started", message=reason))
        self._waiting[status.worker_id] = what

    async def _plan_restart(self, status: WorkerStatus, reason: str, statuses: Sequence[WorkerStatus]) -> None:
        unit = _unit(status)
        pause_s, which = await self._spend(status, reason, statuses)
        workers = [one.worker_id for one in statuses if _unit(one) == unit]
        self._due[unit] = _Restart(workers, status.instance, time.monotonic() + pause_s)
        who = f"{workers[0]} is" if len(workers) == 1 else f"all {len(workers)} ranks of the {unit} are"
        when = f"in {pause_s:g} s" if pause_s else "at once"
        then = f"{who} started again {when} ({which})"
        log_tail = await self._launcher.logs(self._run_id, status.worker_id)
        await self._events.tell(_changed(status, "ended", f"{reason}; {then}", log_tail))

    async def _spend(self, status: WorkerStatus, reason: str, statuses: Sequence[WorkerStatus]) -> tuple[float, str]:
        """One restart of the worker's unit: the pause before it in seconds, and which it is, in words. Raises RunFailed
        where none is left and no other does the same work."""
        budget = self._budgets.setdefault(_unit(status), RestartBudget(self._spec))
        pause_s = budget.spend(time.monotonic(), heard=status.worker_id in self._heard)
        if pause_s is not None:
            return pause_s, f"restart {budget.used} of {self._spec.limit}"
        before = f"{budget.used} restarts within {self._spec.window_s:g} s"
        if not budget.used or not _has_others(status, statuses):
            await self._fail(status, f"{reason}, after {before}" if budget.used else reason)
        return self._spec.longest_pause_s, f"it had {before}; the others go on"

    async def _start_due(self) -> None:
        for unit, restart in list(self._due.items()):
            if time.monotonic() < restart.at_s:
                continue
            statuses = await self._launcher.observe(self._run_id)
            present = {one.worker_id: one.instance for one in statuses}
            workers = [worker for worker in restart.worker_ids if worker in present]
            # A worker that stands alone may have been started meanwhile, as the run was scaled, or be wanted no more.
            if len(workers) > 1 or restart.instance in [present[worker] for worker in workers]:
                try:
                    await self._launcher.restart(self._run_id, workers)
                except LaunchError as error:
                    await self._postpone(unit, restart, str(error), statuses)
                    continue
            del self._due[unit]
            self.restarts += bool(workers)
            for worker in workers:
                self._forget(worker)
                await self._events.tell(ServiceChanged(worker_id=worker, state="restarted"))

    async def _postpone(self, unit: str, restart: _Restart, error: str, statuses: Sequence[WorkerStatus]) -> None:
        """The launcher refuses it for now. That counts as a restart, as the cause may stay. Raises RunFailed."""
        who = f"the {unit}" if len(restart.worker_ids) > 1 else restart.worker_ids[0]
        reason = f"{who} cannot be started again: {error}"
        status = next(one for one in statuses if _unit(one) == unit)
        _, which = await self._spend(status, reason, statuses)
        pause_s = self._spec.longest_pause_s
        self._due[unit] = _Restart(restart.worker_ids, restart.instance, time.monotonic() + pause_s)
        message = f"{reason}; it is tried again in {pause_s:g} s ({which})"
        log.warning("%s", message)
        await self._events.tell(Alert(worker_id=status.worker_id, message=message))

    def _forget_old(self, statuses: Sequence[WorkerStatus]) -> None:
        """Nothing that was known of a worker holds for another one of its id, nor once it has left."""
        instances = {status.worker_id: status.instance for status in statuses}
        for worker, instance in self._instances.items():
            if instances.get(worker) != instance:
                self._forget(worker)
        self._instances = instances
        units = {_unit(status) for status in statuses}
        self._due = {unit: restart for unit, restart in self._due.items() if unit in units}

    def _forget(self, worker: str) -> None:
        self._waiting.pop(worker, None)
        self._heard.discard(worker)
        self._listened_to.pop(worker, None)
        self._unheard.pop(worker, None)
        self._silent_since.pop(worker, None)

    async def _fail(self, status: WorkerStatus, reason: str) -> NoReturn:
        log_tail = await self._launcher.logs(self._run_id, status.worker_id)
        await self._events.tell(_changed(status, "failed", reason, log_tail))
        last = log_tail.text.rpartition("\n")[2]
        if status.code == EXIT_CODE and (words := last_words(last)) is not None:
            raise RunFailed(f"{status.worker_id}: {words}")
        raise RunFailed(f"{reason}\nend of {log_tail.source}:\n{readable(log_tail.text)}")

    async def _listen(self, statuses: Sequence[WorkerStatus]) -> None:
        """Note which workers were never heard, and which are silent now, where Redis answers."""
        now_s = time.monotonic()
        if now_s - self._listened_s < _LISTEN_S:
            return
        self._listened_s = now_s
        by_role: dict[Role, list[str]] = {}
        for status in statuses:
            by_role.setdefault(status.role, []).append(status.worker_id)
        try:
            async with asyncio.timeout(_ANSWER_S):
                beating = [await self._bus.registry.alive(role, ids) for role, ids in by_role.items()]
        except (BusError, TimeoutError) as error:
            log.warning("the heartbeats of %s cannot be read: %s", self._run_id, error)
            # Nobody is heard while Redis is away, and nobody is silent for that.
            self._silent_since = dict.fromkeys(self._silent_since, now_s)
            return
        alive: set[str] = set().union(*beating)
        passed_s = self._looks.passed(now_s)
        self._listened_to = {
            status.worker_id: self._listened_to.get(status.worker_id, -passed_s) + passed_s
            for status in statuses
            if status.state == WorkerState.RUNNING and status.worker_id not in self._heard
        }
        # Of a worker that has just been started, the last heartbeat may be its predecessor's.
        self._heard |= {worker for worker in alive if self._listened_to.get(worker, 0.0) > HEARTBEAT_TTL_S}
        self._unheard = {worker: listened_s for worker, listened_s in self._listened_to.items() if worker not in alive}
        self._silent_since = {worker: self._silent_since.get(worker, now_s) for worker in sorted(self._heard - alive)}


def _has_others(status: WorkerStatus, statuses: Sequence[WorkerStatus]) -> bool:
    """Whether another worker does the same work, so that the run goes on without this one."""
    others = (one for one in statuses if one.role == status.role and _unit(one) != _unit(status))
    return any(one.state == WorkerState.RUNNING for one in others)


def _unit(status: WorkerStatus) -> str:
    """What is started again together with the worker."""
    return status.role if status.role == "learner" else status.worker_id


def _changed(status: WorkerStatus, state: str, reason: str, log_tail: LogTail | None = None) -> ServiceChanged:
    source, text = (log_tail.source, readable(log_tail.text)) if log_tail is not None else (None, None)
    return ServiceChanged(
        worker_id=status.worker_id, state=state, code=status.code, message=reason, log=source, log_end=text
    )
