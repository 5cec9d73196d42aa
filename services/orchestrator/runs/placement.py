"""Where a run's workers are: started at its beginning, more or fewer of them later."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

from dapo.contracts.events import Alert, Scaled, ServiceChanged
from dapo.spec.run import RunSpec
from dapo.spec.workloads import plan_workloads
from services.orchestrator.control.scaling import Scale
from services.orchestrator.launch.launcher import Launcher, LaunchError, RunTarget
from services.orchestrator.runs.events import RunEvents

_RETRY_S = 1.0
Keep = Callable[[RunSpec], Awaitable[None]]


class Placement:
    """Has a launcher run what a spec asks for, one change at a time, and tells of who was launched and who left."""

    def __init__(self, launcher: Launcher, events: RunEvents) -> None:
        self._launcher = launcher
        self._events = events
        self._changing = asyncio.Lock()
        self._over = False
        self._taken_over: str | None = None
        """The run whose workers were found running."""

    async def place(self, target: RunTarget, spec: Callable[[], RunSpec], keep: Keep | None = None) -> None:
        """`spec` is asked for when its turn has come, so that it has what was changed before; `keep` is told of it once
        its workers are placed. Raises LaunchError, and what `keep` raises."""
        async with self._changing:
            if self._over:
                raise LaunchError(f"run {target.run_id} ends: no worker is placed any more")
            wanted = spec()
            workloads = plan_workloads(wanted)
            before = {status.worker_id for status in await self._launcher.observe(target.run_id)}
            await self._launcher.apply(target, workloads)
            if keep is not None:
                await keep(wanted)
        roles = {worker_id: workload.role for workload in workloads for worker_id in workload.worker_ids}
        for worker_id, role in roles.items():
            if worker_id not in before:
                await self._events.tell(ServiceChanged(worker_id=worker_id, role=role, state="launched"))
        for worker_id in sorted(before - roles.keys()):
            await self._events.tell(ServiceChanged(worker_id=worker_id, state="left"))

    async def take_over(self, target: RunTarget, spec: RunSpec, *, changed: bool) -> None:
        """Workers that an earlier run service left running are this one's; where the spec has changed, they end. Raises
        LaunchError."""
        async with self._changing:
            found = await self._launcher.adopt(target, plan_workloads(spec))
            self._taken_over = target.run_id if found else None
            if found and changed:
                await self._launcher.stop(target.run_id)
        if found and not changed:
            message = f"{len(found)} workers of before go on: {', '.join(status.worker_id for status in found)}"
            await self._events.tell(Alert(cause="adopted", message=message, severity="notice"))

    async def clear(self) -> None:
        """End the workers that were taken over. Raises LaunchError."""
        async with self._changing:
            if self._taken_over is not None:
                await self._launcher.stop(self._taken_over)

    async def scale(self, target: RunTarget, spec: Callable[[], RunSpec], scale: Scale, keep: Keep) -> None:
        """As `place`, and tell of each number that is another: before `keep` is told."""
        before: list[RunSpec] = []

        def wanted() -> RunSpec:
            before.append(spec())
            return with_replicas(before[0], scale.replicas)

        async def tell(after: RunSpec) -> None:
            for role in scale.replicas:
                was, now = (getattr(one.resources, role).replicas for one in (before[0], after))
                if was != now:
                    scaled = Scaled(role=role, before=was, after=now, reason=scale.reason, by=scale.by)
                    await self._events.tell(scaled)
            await keep(after)

        await self.place(target, wanted, tell)

    async def place_patiently(self, target: RunTarget, spec: RunSpec, patience_s: float) -> None:
        """Tried again for so long, in a run that goes on: workers of a run service that is gone, or leads it no more,
        may hold GPUs until they are gone, too. Raises LaunchError."""
        deadline, told = time.monotonic() + patience_s, False
        while True:
            try:
                return await self.place(target, lambda: spec)
            except LaunchError as error:
                if time.monotonic() >= deadline:
                    raise
                if not told:
                    await self._events.tell(Alert(message=f"placing workers is tried for {patience_s:g} s: {error}"))
                    told = True
            await asyncio.sleep(_RETRY_S)

    async def end(self, run_id: str, *, goes_on: bool = False) -> None:
        """Stop all workers; none is placed from now on. `goes_on`: the run does, with another run service, which takes
        over those that outlive this one. Raises LaunchError."""
        self._over = True
        async with self._changing:
            await (self._launcher.leave(run_id) if goes_on else self._launcher.stop(run_id))


def with_replicas(spec: RunSpec, replicas: Mapping[str, int]) -> RunSpec:
    """The spec with so many workers of those roles, `generator` or `verifier`."""
    resources = spec.resources
    changed = {role: getattr(resources, role).model_copy(update={"replicas": n}) for role, n in replicas.items()}
    return spec.model_copy(update={"resources": resources.model_copy(update=changed)})
