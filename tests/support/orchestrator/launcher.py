"""A launcher without processes: tests say what becomes of the workers."""

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace

from dapo.spec.workloads import Role, Workload
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.launch.launcher import LaunchError, LogTail, RunTarget, WorkerState, WorkerStatus


class FakeLauncher:
    """Implements Launcher. Workers run from `apply` until `end` or `fail`; `applied` and `restarted` hold the calls."""

    keeps_workers = False

    def __init__(self, refuses: str = "", stops: bool = True, devices: DeviceAllocator | None = None) -> None:
        """`refuses`: what `apply` fails with; without `stops`, `stop` fails. `devices`: that it gives to workers."""
        self._devices = devices or DeviceAllocator(())
        self.elastic = False
        self._refuses = refuses
        self._stops = stops
        self.last_words = "the last words"
        self.applied: list[tuple[RunTarget, list[Workload]]] = []
        self.restarted: list[list[str]] = []
        self.stuck: set[str] = set()
        """Workers that do not go away, so that no restart of theirs succeeds."""
        self.stopped: list[str] = []
        self.workers: dict[str, dict[str, WorkerStatus]] = {}
        self._starts = itertools.count(1)

    def _start(self, worker: str, role: Role) -> WorkerStatus:
        return WorkerStatus(worker, role, WorkerState.RUNNING, instance=str(next(self._starts)))

    async def apply(self, run: RunTarget, workloads: Sequence[Workload]) -> None:
        if self._refuses:
            raise LaunchError(self._refuses)
        lent = self._devices.assign(run.run_id, workloads)
        self._devices.keep(run.run_id, {device for devices in lent.values() for device in devices})
        self.applied.append((run, list(workloads)))
        known = self.workers.get(run.run_id, {})
        self.workers[run.run_id] = {
            worker: known[worker]
            if worker in known and known[worker].state == WorkerState.RUNNING
            else self._start(worker, workload.role)
            for workload in workloads
            for worker in workload.worker_ids
        }

    def end(self, run_id: str, worker_id: str, code: int) -> None:
        workers = self.workers[run_id]
        workers[worker_id] = replace(workers[worker_id], state=WorkerState.EXITED, code=code)

    def fail(self, run_id: str, worker_id: str, reason: str) -> None:
        workers = self.workers[run_id]
        workers[worker_id] = replace(workers[worker_id], state=WorkerState.FAILED, reason=reason)

    async def restart(self, run_id: str, worker_ids: Collection[str]) -> None:
        if stuck := self.stuck.intersection(worker_ids):
            raise LaunchError(f"the processes of {sorted(stuck)} outlived SIGKILL")
        self.restarted.append(sorted(worker_ids))
        for worker in worker_ids:
            role = self.workers[run_id][worker].role
            self.workers[run_id][worker] = self._start(worker, role)

    async def observe(self, run_id: str) -> list[WorkerStatus]:
        return list(self.workers.get(run_id, {}).values())

    async def logs(self, run_id: str, worker_id: str) -> LogTail:
        return LogTail(f"log of {worker_id}", self.last_words)

    async def stop(self, run_id: str) -> None:
        self.stopped.append(run_id)
        if not self._stops:
            raise LaunchError("generator-0 would not go")
        self.workers.pop(run_id, None)
        self._devices.release(run_id)

    async def leave(self, run_id: str) -> None:
        if not self.keeps_workers:
            await self.stop(run_id)

    async def adopt(self, run: RunTarget, workloads: Sequence[Workload]) -> list[WorkerStatus]:
        return await self.observe(run.run_id)
