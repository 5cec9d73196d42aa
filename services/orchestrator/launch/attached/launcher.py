"""Places workers with agents."""

import asyncio
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

from dapo.bus import BusError
from dapo.bus.agents import AgentRecords
from dapo.spec.workloads import Workload
from services.orchestrator.launch.attached.choice import needs_of
from services.orchestrator.launch.attached.workers import REPLACE_S, RunWorkers
from services.orchestrator.launch.launcher import LaunchError, LogTail, RunTarget, WorkerStatus

_STOP_S = 45.0
"""How long a run's end waits for a Redis that is away."""


class AttachedLauncher:
    """Implements Launcher. Workers run under agents (dapo/bus/agents.py), which the launcher finds in Redis.

    Parts: the records; for each run its RunWorkers; which agent gets which worker (choice.py); what an agent's record
    means (reading.py).
    Promises: a worker is with one agent at most, also where several services place on the same agents. One that was
    ended, restarted or lost with its agent writes nothing more. A run gets all the agents that it needs, or none of
    them; they are waited for within PLACE_S, and a worker's end within END_S (workers.py).
    Restart: which worker is with which agent stands in Redis; `adopt` finds it there, and the workers go on. In this
    process it keeps what was applied, since when agents are missing, and where workers have failed.
    """

    elastic = True
    keeps_workers = False

    def __init__(self, records: AgentRecords, state_dir: Path, redis_url: str) -> None:
        """`state_dir`: of the service; agents have it as their --work-dir. `redis_url`: where agents and runs meet."""
        self._records = records
        self._root = state_dir.resolve()
        self._redis_url = redis_url
        self._runs: dict[str, RunWorkers] = {}
        self._failures: dict[str, Counter[str]] = {}
        """Run → agent → how many of its workers failed there; kept for a run that is resumed."""
        self._changing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def _one_change(self, run_id: str) -> asyncio.Lock:
        return self._changing.setdefault(run_id, asyncio.Lock())

    async def apply(self, run: RunTarget, workloads: Sequence[Workload]) -> None:
        async with self._one_change(run.run_id):
            before = self._runs.get(run.run_id)
            self._runs[run.run_id] = workers = self._workers(run, workloads)
            try:
                with _in_words():
                    await workers.bring_about()
            except LaunchError:
                if before is not None:
                    self._runs[run.run_id] = before
                else:
                    del self._runs[run.run_id]
                raise

    async def restart(self, run_id: str, worker_ids: Collection[str]) -> None:
        async with self._one_change(run_id):
            if (workers := self._runs.get(run_id)) is None:
                raise LaunchError(f"the workers of run {run_id} were stopped: none of them is started again")
            with _in_words():
                await workers.end(worker_ids)
                needs = [need for need in needs_of(workers.workloads) if need.worker_id in worker_ids]
                await workers.place(needs, REPLACE_S)

    async def observe(self, run_id: str) -> list[WorkerStatus]:
        if (workers := self._runs.get(run_id)) is None:
            return []
        with _in_words():
            statuses = (await workers.see()).statuses
        return [statuses[need.worker_id] for need in needs_of(workers.workloads)]

    async def logs(self, run_id: str, worker_id: str) -> LogTail:
        """What the agent told of it last, a few seconds ago at most; of one that is not heard, what the run's folder
        has where it is shared."""
        where = f"logs/{worker_id}.log in the run's folder"
        with _in_words():
            placement = (await self._records.placements(run_id)).get(worker_id)
            known = (await self._records.find([placement])).get(placement.agent_id) if placement is not None else None
        if known is not None:
            return LogTail(f"{where} on {known.agent.host}", known.log)
        if (workers := self._runs.get(run_id)) is None:
            return LogTail(where, "")
        return LogTail(where, await asyncio.to_thread(workers.shared_log, worker_id))

    async def stop(self, run_id: str) -> None:
        async with self._one_change(run_id):
            if (workers := self._runs.get(run_id)) is None:
                return
            with _in_words():
                async with asyncio.timeout(_STOP_S):
                    await workers.end(await self._records.placements(run_id))
            del self._runs[run_id]
            if not self._failures[run_id]:
                del self._failures[run_id]

    async def leave(self, run_id: str) -> None:
        await self.stop(run_id)

    async def adopt(self, run: RunTarget, workloads: Sequence[Workload]) -> list[WorkerStatus]:
        async with self._one_change(run.run_id):
            workers = self._workers(run, workloads)
            with _in_words():
                seen = await workers.see()
            if not seen.placements:
                return []
            self._runs[run.run_id] = workers
        return [status for worker, status in seen.statuses.items() if worker in seen.placements]

    def _workers(self, run: RunTarget, workloads: Sequence[Workload]) -> RunWorkers:
        """Raises LaunchError for a run that agents cannot work for."""
        if run.redis_url != self._redis_url:
            raise LaunchError(
                "resources.redis.url: agents work for runs in the Redis of the run service. Leave the field empty"
            )
        folder = run.run_dir.resolve()
        if not folder.is_relative_to(self._root):
            raise LaunchError(f"the run's folder {folder} is not below {self._root}, which agents share")
        failures = self._failures.setdefault(run.run_id, Counter())
        return RunWorkers(self._records, run, workloads, folder.relative_to(self._root), failures)


@contextmanager
def _in_words() -> Iterator[None]:
    """Raises LaunchError where Redis does not tell of agents, or another orchestrator leads the run."""
    try:
        yield
    except BusError as error:
        raise LaunchError(f"the run's agents cannot be asked: {error}") from error
    except TimeoutError as error:
        why = f"Redis did not tell of them for {_STOP_S:g} s; they end what nobody leads by themselves"
        raise LaunchError(f"the run's workers may go on with their agents: {why}") from error
