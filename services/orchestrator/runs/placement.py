"""Where a run's workers are: started at its beginning, more or fewer of them later."""

import asyncio

from dapo.contracts.events import ServiceChanged
from dapo.spec.run import RunSpec
from dapo.spec.workloads import plan_workloads
from services.orchestrator.launch.launcher import Launcher, LaunchError, RunTarget
from services.orchestrator.runs.events import RunEvents


class Placement:
    """Has a launcher run what a spec asks for, one change at a time, and tells of who was launched and who left."""

    def __init__(self, launcher: Launcher, events: RunEvents) -> None:
        self._launcher = launcher
        self._events = events
        self._changing = asyncio.Lock()
        self._over = False

    async def place(self, target: RunTarget, spec: RunSpec) -> None:
        """Raises LaunchError."""
        workloads = plan_workloads(spec)
        roles = {worker_id: workload.role for workload in workloads for worker_id in workload.worker_ids}
        async with self._changing:
            if self._over:
                raise LaunchError(f"run {target.run_id} ends: no worker is placed any more")
            before = {status.worker_id for status in await self._launcher.observe(target.run_id)}
            await self._launcher.apply(target, workloads)
        for worker_id, role in roles.items():
            if worker_id not in before:
                await self._events.tell(ServiceChanged(worker_id=worker_id, role=role, state="launched"))
        for worker_id in sorted(before - roles.keys()):
            await self._events.tell(ServiceChanged(worker_id=worker_id, state="left"))

    async def end(self, run_id: str) -> None:
        """Stop all workers; none is placed from now on. Raises LaunchError."""
        self._over = True
        async with self._changing:
            await self._launcher.stop(run_id)
