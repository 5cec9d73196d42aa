"""The workers of one run, wherever its agents are."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

from dapo.bus.agents import AgentRecords, Known, NotPlaced, Order, Placement
from dapo.host.files import tail
from dapo.host.storage import in_words
from dapo.records.folder import RunFolder
from dapo.spec.workloads import Role, Workload
from services.orchestrator.launch.attached.choice import Need, choose, cure, lacking, needs_of
from services.orchestrator.launch.attached.reading import has_ended, has_failed, read_status
from services.orchestrator.launch.launcher import LaunchError, RunTarget, WorkerStatus, told_environment

log = logging.getLogger(__name__)

LOST_S = 3.0
"""An agent whose record has lapsed may still beat within this time, as after an outage of Redis."""
PLACE_S = 30.0
"""How long agents are waited for that are not free yet."""
REPLACE_S = 5.0
"""How long they are waited for to start one worker anew, while the run's other workers are not looked after."""
END_S = 20.0
"""How long an agent has to end its worker."""
_FREE_S = 3.0
_LOOK_S = 0.25


class Seen(NamedTuple):
    """The run's workers at this moment: those that are wanted, in order, and any others that are placed."""

    placements: Mapping[str, Placement]
    statuses: Mapping[str, WorkerStatus]

    def living(self) -> set[str]:
        """Those that are with an agent, and have not ended there."""
        return {worker for worker in self.placements if not has_ended(self.statuses[worker])}


class RunWorkers:
    """Implements for one run what AttachedLauncher promises. All methods but `see` are called one at a time, and raise
    LaunchError, BusError."""

    def __init__(
        self,
        records: AgentRecords,
        target: RunTarget,
        workloads: Sequence[Workload],
        folder: Path,
        failures: Counter[str],
    ) -> None:
        """`folder`: of the run, relative to what the service and its agents share. `failures`: by agent, how many
        workers of the run have failed there so far; counted on."""
        self.workloads = workloads
        self._records = records
        self._target = target
        self._folder = folder
        self._failures = failures
        self._missing: dict[str, float] = {}
        """Agent → since when its record is missing, by the monotonic clock."""
        self._looked_s = 0.0

    async def see(self) -> Seen:
        """Raises BusError."""
        placements = await self._records.placements(self._target.run_id)
        agents = await self._records.find(placements.values())
        self._note_missing({one.agent_id for one in placements.values()} - agents.keys())
        roles: dict[str, Role] = {
            worker: workload.role for workload in self.workloads for worker in workload.worker_ids
        }
        for worker, placement in placements.items():
            roles.setdefault(worker, cast(Role, placement.role))
        statuses = {
            worker: self._status(worker, role, placements.get(worker), agents) for worker, role in roles.items()
        }
        return Seen(placements, statuses)

    async def bring_about(self) -> None:
        """As Launcher.apply; of workloads that can do with fewer, `workloads` has what was placed."""
        wanted = {need.worker_id for need in needs_of(self.workloads)}
        seen = await self.see()
        await self.end(seen.placements.keys() - (wanted & seen.living()))
        needed = [need for need in needs_of(self.workloads, fewest=True) if need.worker_id not in seen.living()]
        placed = await self.place(needed, PLACE_S)
        try:
            self.workloads = [await self._fill(workload) for workload in self.workloads]
            left_over = (await self.see()).placements.keys() - {need.worker_id for need in needs_of(self.workloads)}
            await self.end(left_over)
        except BaseException:
            await self.end(placed)
            raise

    async def place(self, needs: Sequence[Need], patience_s: float) -> list[str]:
        """Give each worker to a free agent, waiting for those that come free; where too few do, to none."""
        left, placed = list(needs), list[str]()
        deadline = time.monotonic() + patience_s
        try:
            while left:
                known = await self._records.agents()
                free = [one.agent for one in known if one.free]
                places, unplaced = choose(left, free, failures=self._failures)
                if not unplaced:
                    placed += await self._give(left, places)
                    left = [need for need in left if need.worker_id not in placed]
                elif time.monotonic() >= deadline:
                    short = lacking(unplaced, [one.agent for one in known], free)
                    raise LaunchError(f"the run needs {short}; they were waited for {patience_s:g} s. {cure(unplaced)}")
                if left:
                    await asyncio.sleep(_LOOK_S)
        except BaseException:
            await self.end(placed)
            raise
        return placed

    async def end(self, workers: Collection[str]) -> None:
        """Have the processes of these workers end; then none of them is placed. Raises LaunchError naming those that an
        agent has not ended within END_S: they are not placed either, and write nothing more."""
        placements, statuses = await self.see()
        mine = {worker: one for worker, one in placements.items() if worker in workers}
        self._failures.update(one.agent_id for worker, one in mine.items() if has_failed(statuses[worker]))
        await asyncio.gather(*(self._withdraw(worker, one, final=False) for worker, one in mine.items()))
        deadline = time.monotonic() + END_S
        while True:
            living = (await self.see()).living() & mine.keys()
            if not living or time.monotonic() >= deadline:
                break
            await asyncio.sleep(_LOOK_S)
        await asyncio.gather(*(self._withdraw(worker, one, final=True) for worker, one in mine.items()))
        await self._wait_free(mine.values())
        if living:
            where = ", ".join(f"{worker} (agent {mine[worker].agent_id})" for worker in sorted(living))
            raise LaunchError(f"not ended within {END_S:g} s: {where}. They write nothing more; look at their agents")

    def shared_log(self, worker: str) -> str:
        """The end of a worker's log as this host has it; "": it does not."""
        try:
            return tail(RunFolder(self._target.run_dir).logs / f"{worker}.log")
        except OSError as error:
            return in_words(error)

    async def _wait_free(self, placements: Collection[Placement]) -> None:
        """Until the agents of workers that are placed no more are free for others, or have had time enough to be."""
        numbers, deadline = {one.number for one in placements}, time.monotonic() + _FREE_S
        while time.monotonic() < deadline:
            agents = await self._records.find(placements)
            if not any(known.order is not None and known.order.number in numbers for known in agents.values()):
                return
            await asyncio.sleep(_LOOK_S)

    async def _fill(self, workload: Workload) -> Workload:
        """Those of its workers beyond the fewest that agents are free for, in order."""
        if workload.fewest is None:
            return workload
        living = (await self.see()).living()
        for count, need in enumerate(needs_of([workload])):
            if need.worker_id in living:
                continue
            known = await self._records.agents()
            mine = [one.agent for one in known if one.order is not None and one.order.run_id == self._target.run_id]
            free = [one.agent for one in known if one.free]
            places, unplaced = choose([need], free, beside=mine, failures=self._failures)
            if unplaced or not await self._give([need], places):
                return replace(workload, replicas=count)
        return workload

    async def _give(self, needs: Sequence[Need], places: Mapping[str, str]) -> list[str]:
        """Those that were placed: another service may have been faster with an agent."""
        orders = {order.worker_id: order for order in self._orders()}
        placed = []
        for need in needs:
            try:
                await self._records.place(places[need.worker_id], orders[need.worker_id], self._target.term)
                placed.append(need.worker_id)
            except NotPlaced as error:
                log.info("%s", error)
        return placed

    def _orders(self) -> list[Order]:
        return [
            Order(
                run_id=self._target.run_id,
                worker_id=worker,
                role=workload.role,
                module=workload.module,
                folder=str(self._folder),
                gpus=workload.resources.gpus,
                environment={**workload.environment, **told_environment(self._target, workload, index)},
            )
            for workload in self.workloads
            for index, worker in enumerate(workload.worker_ids)
        ]

    async def _withdraw(self, worker: str, one: Placement, *, final: bool) -> None:
        await self._records.withdraw(self._target.run_id, worker, one.number, self._target.term, final=final)

    def _status(
        self, worker: str, role: Role, placement: Placement | None, agents: Mapping[str, Known]
    ) -> WorkerStatus:
        agent_id = "" if placement is None else placement.agent_id
        lost = agent_id in self._missing and time.monotonic() - self._missing[agent_id] >= LOST_S
        return read_status(worker, role, placement, agents.get(agent_id), lost=lost)

    def _note_missing(self, missing: Collection[str]) -> None:
        now = time.monotonic()
        if now - self._looked_s > LOST_S:
            # Nobody looked: Redis was away, and agents are about to come back.
            self._missing.clear()
        self._looked_s = now
        self._missing = {agent_id: self._missing.get(agent_id, now) for agent_id in missing}
