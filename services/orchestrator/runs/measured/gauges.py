"""How a run that goes on here stands, in numbers: what this process knows of it, and what its Redis does."""

import asyncio
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dapo.bus import Bus, BusError
from dapo.bus.measures import Measures, WorkersByRole, measure, payload_bytes
from dapo.bus.server.connection import Server
from dapo.records.checkpoints import CheckpointError, newest_written
from dapo.records.folder import RunFolder
from dapo.spec.run import RunSpec
from dapo.spec.workloads import plan_workloads
from services.orchestrator.launch.launcher import WorkerStatus
from services.orchestrator.records.mirror import Mirror
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.events import RunEvents
from services.orchestrator.runs.monitor import HealthMonitor
from services.orchestrator.runs.outcome import Standing
from services.orchestrator.runs.redis import RunRedis
from services.orchestrator.runs.tenure import Tenure

log = logging.getLogger(__name__)

ANSWER_S = 3.0
"""How long a Redis that may be gone is waited for: scrapes end after ten seconds."""


class Counted(NamedTuple):
    """What a run's Redis says of it."""

    measures: Measures
    payload_bytes: int


class Gauges:
    """The parts of a run's driver that are looked at; reading them changes nothing and asks nobody."""

    def __init__(
        self,
        recorder: Recorder,
        redis: RunRedis,
        tenure: Tenure,
        standing: Standing,
        events: RunEvents,
        mirror: Mirror,
    ) -> None:
        self._recorder = recorder
        self._redis = redis
        self._tenure = tenure
        self._standing = standing
        self._events = events
        self._mirror = mirror
        self.monitor: HealthMonitor | None = None
        """Once it is watched."""

    @property
    def bus(self) -> Bus | None:
        """While the run's Redis is open."""
        return self._redis.bus

    @property
    def mirrored_step(self) -> int | None:
        """Of the newest checkpoint that is whole in the mirror; None before the first."""
        return self._mirror.step

    @property
    def state(self) -> str:
        return self._standing.state

    @property
    def epoch(self) -> int:
        """0 before the run is led."""
        return self._tenure.epoch

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """Of metrics.jsonl, oldest first."""
        return self._recorder.rows

    @property
    def running_at(self) -> float | None:
        """As Standing.running_at."""
        return self._standing.running_at

    @property
    def progress_at(self) -> float | None:
        """As Recorder.progress_at, counted from when the run runs; None before: until then it waits for its workers."""
        running_at = self._standing.running_at
        return None if running_at is None else max(running_at, self._recorder.progress_at)

    @property
    def checkpoints(self) -> Path:
        """The folder that they are in."""
        return RunFolder(self._recorder.run_dir).checkpoints

    @property
    def evaluations(self) -> dict[str, Mapping[str, Any]]:
        """The newest by set."""
        return {row["set"]: row for row in self._recorder.evaluations}

    @property
    def alerts(self) -> Counter[tuple[str, str]]:
        """As RunEvents.alerts."""
        return self._events.alerts

    @property
    def workers(self) -> Sequence[WorkerStatus]:
        return self.monitor.statuses if self.monitor is not None else ()

    @property
    def restarts(self) -> int:
        return self.monitor.restarts if self.monitor is not None else 0


def workers_of(spec: RunSpec, statuses: Sequence[WorkerStatus]) -> WorkersByRole:
    """Ids by role, of those that a run is to have. An autoscaler of a cluster changes no spec: once there are statuses
    they tell, as each worker has one."""
    found: dict[str, list[str]] = {}
    for status in statuses:
        found.setdefault(status.role, []).append(status.worker_id)
    for workload in plan_workloads(spec) if not statuses else ():
        found.setdefault(workload.role, []).extend(workload.worker_ids)
    return found


class Saved(NamedTuple):
    """The newest checkpoint of a run."""

    step: int
    at: float
    """Unix time at which it was written."""


def find_saved(folders: Mapping[str, Path]) -> dict[str, Saved]:
    """By run, of the folders of their checkpoints; a run that has none yet, or whose folder cannot be read, is left
    out."""
    found: dict[str, Saved] = {}
    for run_id, folder in folders.items():
        try:
            if (newest := newest_written(folder)) is not None:
                found[run_id] = Saved(*newest)
        except (CheckpointError, OSError) as error:
            log.warning("the checkpoints of %s cannot be read: %s", run_id, error)
    return found


async def count(runs: Mapping[str, tuple[Bus, WorkersByRole]]) -> dict[str, Counted]:
    """By run, with the workers that it is to have. Servers are asked side by side, each once for all runs that are on
    it; the runs of one that does not answer within three seconds are left out."""
    control: dict[str, dict[str, tuple[Bus, WorkersByRole]]] = {}
    payload: dict[str, dict[str, Server]] = {}
    for run_id, one in runs.items():
        bus, _ = one
        control.setdefault(bus.control_server.url, {})[run_id] = one
        payload.setdefault(bus.payload_server.url, {})[run_id] = bus.payload_server
    measured, used = await asyncio.gather(
        asyncio.gather(*(_measured(on_one) for on_one in control.values())),
        asyncio.gather(*(_used(on_one) for on_one in payload.values())),
    )
    bytes_of = {run_id: size for part in used for run_id, size in part.items()}
    return {
        run_id: Counted(found, bytes_of[run_id])
        for part in measured
        for run_id, found in part.items()
        if run_id in bytes_of
    }


async def _measured(runs: Mapping[str, tuple[Bus, WorkersByRole]]) -> dict[str, Measures]:
    server = next(bus.control_server for bus, _ in runs.values())
    try:
        async with asyncio.timeout(ANSWER_S):
            return await measure(server, {run_id: workers for run_id, (_, workers) in runs.items()})
    except (BusError, TimeoutError) as error:
        log.warning("%d runs cannot be measured: %s", len(runs), error or f"no answer for {ANSWER_S:g} s")
        return {}


async def _used(servers: Mapping[str, Server]) -> dict[str, int]:
    try:
        async with asyncio.timeout(ANSWER_S):
            return await payload_bytes(next(iter(servers.values())), list(servers))
    except (BusError, TimeoutError) as error:
        log.warning("the payloads of %d runs cannot be measured: %s", len(servers), error)
        return {}
