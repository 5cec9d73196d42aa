"""The launcher `local`: workers as child processes on this machine, each the leader of a session of its own."""

import asyncio
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from dapo.host.addresses import LOOPBACK
from dapo.host.children import start_logged
from dapo.host.files import tail
from dapo.host.processes import end_sessions, read_process, wait_gone
from dapo.host.storage import in_words
from dapo.records.folder import RunFolder
from dapo.spec.workloads import Role, Workload
from dapo.worker import host_environment
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.launch.launcher import (
    LaunchError,
    LogTail,
    RunTarget,
    WorkerState,
    WorkerStatus,
    told_environment,
)

log = logging.getLogger(__name__)

_LOOK_S = 60.0


class _Outlived(LaunchError):
    """Processes did not die."""

    def __init__(self, pids: Sequence[int]) -> None:
        super().__init__(f"processes {pids} outlived SIGKILL")
        self.pids = pids


@dataclass
class _Child:
    worker_id: str
    role: Role
    process: asyncio.subprocess.Process
    started: int
    """Start time as in dapo.host.processes.ProcessEntry; 0 when the process was gone before it could be read."""

    def status(self) -> WorkerStatus:
        code = self.process.returncode
        state = WorkerState.RUNNING if code is None else WorkerState.EXITED
        instance = f"{self.process.pid}-{self.started}"
        return WorkerStatus(self.worker_id, self.role, state, code, instance=instance)


@dataclass
class _LocalRun:
    target: RunTarget
    workloads: Sequence[Workload]
    lent: Mapping[str, Sequence[str]]
    """Worker id -> its GPUs."""
    children: dict[str, _Child] = field(default_factory=dict)

    @property
    def places(self) -> dict[str, tuple[Workload, int]]:
        """Worker id -> its workload, and which replica of it."""
        return {
            worker_id: (workload, index)
            for workload in self.workloads
            for index, worker_id in enumerate(workload.worker_ids)
        }

    @property
    def logs(self) -> Path:
        return RunFolder(self.target.run_dir).logs


class LocalLauncher:
    """Implements Launcher. Owns child processes, their logs and their GPUs; nothing outside it sees a process.

    A worker writes to RUN_DIR/logs/<worker id>.log and advertises one address of this machine. `stop` leaves no process
    of a run, nor any of their descendants. Workers die with this process, so `adopt` never finds any.
    """

    elastic = False
    keeps_workers = False

    def __init__(self, devices: DeviceAllocator, *, address: str = LOOPBACK) -> None:
        """`address`: of this machine, where the workers of a run reach each other."""
        self._devices = devices
        self._address = address
        self._runs: dict[str, _LocalRun] = {}
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._giving_back: set[asyncio.Task[None]] = set()

    def _one_change(self, run_id: str) -> asyncio.Lock:
        """Changes of a run's workers come one after the other: each waits for processes to end."""
        return self._changing.setdefault(run_id, asyncio.Lock())

    async def apply(self, run: RunTarget, workloads: Sequence[Workload]) -> None:
        async with self._one_change(run.run_id):
            await self._apply(run, workloads)

    async def _apply(self, run: RunTarget, workloads: Sequence[Workload]) -> None:
        lent = self._devices.assign(run.run_id, workloads)
        before = self._runs.get(run.run_id)
        state = self._runs[run.run_id] = _LocalRun(run, workloads, lent, dict(before.children) if before else {})
        try:
            await self._bring_about(state)
        except (LaunchError, OSError):
            await self._take_back(state, before)
            raise
        self._devices.keep(run.run_id, {device for devices in lent.values() for device in devices})

    async def _bring_about(self, state: _LocalRun) -> None:
        places = state.places
        state.logs.mkdir(parents=True, exist_ok=True)
        await self._end([child for worker, child in state.children.items() if worker not in places])
        state.children = {worker: child for worker, child in state.children.items() if worker in places}
        for worker_id in places:
            known = state.children.get(worker_id)
            if known is None or known.process.returncode is not None:
                await self._start(state, worker_id)

    async def _take_back(self, state: _LocalRun, before: _LocalRun | None) -> None:
        """The run has the workers of before, of which those that were to leave may have ended."""
        run_id, known = state.target.run_id, before.children if before is not None else {}
        await self._end([child for worker, child in state.children.items() if child is not known.get(worker)])
        if before is None:
            del self._runs[run_id]
            self._devices.release(run_id)
        else:
            before.lent = self._devices.assign(run_id, before.workloads)
            self._runs[run_id] = before

    async def restart(self, run_id: str, worker_ids: Collection[str]) -> None:
        async with self._one_change(run_id):
            if (state := self._runs.get(run_id)) is None:
                raise LaunchError(f"the workers of run {run_id} were stopped: none of them is started again")
            await self._end([child for worker, child in state.children.items() if worker in worker_ids])
            for worker_id in state.places:
                if worker_id in worker_ids:
                    await self._start(state, worker_id)

    async def _start(self, state: _LocalRun, worker_id: str) -> None:
        workload, index = state.places[worker_id]
        devices = state.lent.get(worker_id)
        environment = _environment(state.target, workload, index, devices, self._address)
        locks = self._devices.locks(state.target.run_id, devices) if devices is not None else ()
        state.children[worker_id] = await _spawn(workload, worker_id, environment, state.logs, locks)

    async def observe(self, run_id: str) -> list[WorkerStatus]:
        state = self._runs.get(run_id)
        return [state.children[worker].status() for worker in state.places if worker in state.children] if state else []

    async def logs(self, run_id: str, worker_id: str) -> LogTail:
        path = self._runs[run_id].logs / f"{worker_id}.log"
        return LogTail(str(path), tail(path))

    async def stop(self, run_id: str) -> None:
        async with self._one_change(run_id):
            try:
                if state := self._runs.get(run_id):
                    await self._end(list(state.children.values()))
                    del self._runs[run_id]
            except _Outlived as error:
                giving = asyncio.create_task(self._give_back(self._devices.withdraw(run_id), error.pids))
                self._giving_back.add(giving)
                giving.add_done_callback(self._giving_back.discard)
                raise
            self._devices.release(run_id)

    async def _give_back(self, locks: Collection[int], users: Sequence[int]) -> None:
        """GPUs of a run that has ended, once these processes are gone, of which an engine holds no lock of its own."""
        left = [entry for pid in users if (entry := read_process(pid)) is not None]
        try:
            while left:
                left = await wait_gone(left, _LOOK_S)
        finally:
            for lock in locks:
                os.close(lock)

    async def leave(self, run_id: str) -> None:
        await self.stop(run_id)

    async def adopt(self, run: RunTarget, workloads: Sequence[Workload]) -> list[WorkerStatus]:
        return []

    async def _end(self, children: Sequence[_Child]) -> None:
        """Within about ten seconds. Raises _Outlived naming pids that would not die."""
        left = await end_sessions({child.process.pid: child.started for child in children})
        if left:
            raise _Outlived(left)
        await asyncio.gather(*(child.process.wait() for child in children))


def _environment(
    run: RunTarget, workload: Workload, index: int, devices: Sequence[str] | None, address: str
) -> dict[str, str]:
    """What a worker's environment holds beyond this process's own. `devices` None: it gets no GPU."""
    told = {**workload.environment, **told_environment(run, workload, index), "DAPO_TERM": str(run.term)}
    return {**told, **host_environment(run.run_dir, run.redis_url, devices, address)}


async def _spawn(
    workload: Workload, worker_id: str, environment: Mapping[str, str], logs: Path, locks: Sequence[int]
) -> _Child:
    """`locks`: descriptors that the process inherits. Raises LaunchError where the operating system refuses it."""
    try:
        process = await start_logged(workload.module, environment, logs / f"{worker_id}.log", locks)
    except OSError as error:
        raise LaunchError(f"cannot start {worker_id} ({workload.module}): {in_words(error)}") from error
    log.info("started %s as process %d", worker_id, process.pid)
    entry = read_process(process.pid)
    return _Child(worker_id, workload.role, process, entry.started if entry else 0)
