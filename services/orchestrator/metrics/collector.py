"""What a scrape of the run service answers: its instruments, and what is found out about its runs just then."""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from prometheus_client.core import Metric

import dapo
from dapo.algo.scaling import HISTORY
from dapo.bus import Bus, BusError
from dapo.bus.measures import Measures, WorkersByRole, memory
from dapo.host.remembered import LastAnswer
from dapo.telemetry.exported import STEP_GAUGES
from dapo.telemetry.exposition import families
from dapo.telemetry.instruments import Value, family
from dapo.v1 import messages_pb2 as messages
from dapo.v1 import run_pb2 as pb
from services.orchestrator.control.scaling import demand
from services.orchestrator.fleet.service import RunService
from services.orchestrator.launch.launcher import WorkerState, WorkerStatus
from services.orchestrator.runs.driver import RunDriver
from services.orchestrator.runs.measured.gauges import ANSWER_S, Counted, Gauges, Saved, count, find_saved, workers_of
from services.orchestrator.runs.questions import NoAnswer

log = logging.getLogger(__name__)

_KNOWN_S = 60.0
"""So long the runs that do not go on here are not counted anew: folders, and other services, tell of them."""
_SAVED_S = 15.0
"""So long no folder is read for newer checkpoints."""
_PREFIX = "RUN_STATE_"
_STATES = tuple(name.removeprefix(_PREFIX).lower() for name, number in pb.RunState.items() if number)
_SERVING = frozenset({"ready", "updating", "evaluating"})

Key = tuple[str]
"""The run."""
Row = tuple[Sequence[str], Value]


class _Seen(NamedTuple):
    """A run that goes on here, as a scrape finds it."""

    driver: RunDriver
    counted: Counted | None
    """None: its Redis is not open, or has not answered."""
    saved: Saved | None
    """None: it has no checkpoint yet."""

    @property
    def key(self) -> Key:
        return (self.driver.run_id,)

    @property
    def gauges(self) -> Gauges:
        return self.driver.gauges

    @property
    def workers(self) -> WorkersByRole:
        return workers_of(self.driver.spec, self.gauges.workers)

    @property
    def generators(self) -> int:
        """Those that only evaluate left out."""
        return sum(worker.startswith("generator-") for worker in self.workers["generator"])


class Collector:
    """Finds out what is exported, at each scrape.

    Promises: a scrape asks each Redis once for all runs on it, and reads folders only for newer checkpoints, four times
    a minute, and once a minute to count runs that have ended. All of it is asked side by side and waited for three
    seconds at most; then runs are counted as they were last. Only runs that go on here export more than their state:
    each run of a shared Redis is exported by the one instance that leads it.
    Restart: counters begin anew, as Prometheus expects.
    """

    def __init__(self, service: RunService, streams: Callable[[], int]) -> None:
        """`streams`: that callers have open."""
        self.service = service
        self._streams = streams
        self._known: LastAnswer[Mapping[str, str]] = LastAnswer({}, every_s=_KNOWN_S, within_s=ANSWER_S)
        self._saved: LastAnswer[Mapping[str, Saved]] = LastAnswer({}, every_s=_SAVED_S, within_s=ANSWER_S)
        self._demands: dict[str, tuple[tuple[int, int], int]] = {}
        """By run, of so many steps and generators: what was found then."""

    async def collect(self) -> list[Metric]:
        """Raises nothing: what cannot be found out is missing."""
        drivers = self.service.under_way()
        counted, saved, of_service = await asyncio.gather(
            count(_open(drivers)), self._find_saved(drivers), self._of_service(drivers)
        )
        seen = [_Seen(driver, counted.get(driver.run_id), saved.get(driver.run_id)) for driver in drivers]
        return [*families(), *of_service, *_of_runs(seen), self._demand(drivers)]

    async def _find_saved(self, drivers: Sequence[RunDriver]) -> Mapping[str, Saved]:
        folders = {driver.run_id: driver.gauges.checkpoints for driver in drivers}
        return await self._saved.get(frozenset(folders), lambda: asyncio.to_thread(find_saved, folders))

    async def _of_service(self, drivers: Sequence[RunDriver]) -> Iterable[Metric]:
        mine = {driver.run_id: driver.gauges.state for driver in drivers}
        # Where one of them ends, all are counted anew.
        machine, known, redis = await asyncio.gather(
            self.service.look_at_machine(), self._known.get(frozenset(mine), self._states), self._redis()
        )
        single: dict[str, Value] = {
            "dapo_runs_led": len(drivers),
            "dapo_queue_runs": len(machine.queue),
            "dapo_machine_gpus": machine.gpus.total,
            "dapo_machine_free_gpus": machine.gpus.free,
            "dapo_machine_cores": machine.cores.total,
            "dapo_machine_free_cores": machine.cores.free,
            "dapo_machine_memory_bytes": machine.memory.total,
            "dapo_machine_free_memory_bytes": machine.memory.free,
            "dapo_api_streams": self._streams(),
            **redis,
        }
        numbers = Counter({**known, **mine}.values())
        return [
            family("dapo_build_info", [((dapo.__version__,), 1)]),
            family("dapo_runs", [((state,), numbers[state]) for state in _STATES]),
            *(family(name, [((), value)]) for name, value in single.items()),
        ]

    async def _states(self) -> Mapping[str, str] | None:
        """Of all runs, by id; None where they cannot be listed."""
        try:
            return {run.id: _word(run.state) for run in await self.service.list()}
        except NoAnswer as error:
            log.warning("runs that do not go on here are counted as before: %s", error)
            return None

    async def _redis(self) -> dict[str, Value]:
        server = self.service.redis
        if server is None:
            return dict.fromkeys(("dapo_redis_up", "dapo_redis_used_bytes", "dapo_redis_limit_bytes"))
        try:
            async with asyncio.timeout(ANSWER_S):
                used, limit = await memory(server)
        except (BusError, TimeoutError):
            return {"dapo_redis_up": 0, "dapo_redis_used_bytes": None, "dapo_redis_limit_bytes": None}
        return {"dapo_redis_up": 1, "dapo_redis_used_bytes": used, "dapo_redis_limit_bytes": limit or None}

    def _demand(self, drivers: Sequence[RunDriver]) -> Metric:
        """Found anew only where a step was trained since, or the run was scaled: it looks at many steps."""
        kept, self._demands = self._demands, {}
        for driver in drivers:
            rows, spec = driver.gauges.rows, driver.spec
            if rows and spec.training.steps:
                of = (len(rows), spec.resources.generator.replicas)
                known = kept.get(driver.run_id)
                if known is None or known[0] != of:
                    known = of, demand(spec, rows[-HISTORY:]).wanted
                self._demands[driver.run_id] = known
        values = [((run,), wanted) for run, (_, wanted) in self._demands.items()]
        return family("dapo_run_generators_demand", values)


def _open(drivers: Iterable[RunDriver]) -> dict[str, tuple[Bus, WorkersByRole]]:
    return {
        one.run_id: (bus, workers_of(one.spec, one.gauges.workers))
        for one in drivers
        if (bus := one.gauges.bus) is not None
    }


def _word(state: int) -> str:
    return pb.RunState.Name(state).removeprefix(_PREFIX).lower()


def _of_runs(seen: Sequence[_Seen]) -> Iterator[Metric]:
    """What each run has itself, then what its Redis told."""
    yield family("dapo_run_info", [((*one.key, one.driver.spec.name, one.gauges.state), 1) for one in seen])
    yield family("dapo_run_steps_planned", [(one.key, one.driver.spec.training.steps) for one in seen])
    limits = [(one.key, one.driver.spec.asynchrony.max_staleness) for one in seen]
    yield family("dapo_run_staleness_limit_versions", limits)
    yield family("dapo_run_progress_timestamp_seconds", [(one.key, one.gauges.progress_at) for one in seen])
    yield from _of_checkpoints(seen)
    yield family("dapo_run_restarts_total", [(one.key, one.gauges.restarts) for one in seen])
    yield family("dapo_run_lease_epoch", [(one.key, one.gauges.epoch or None) for one in seen])
    alerts = (((*one.key, *which), number) for one in seen for which, number in one.gauges.alerts.items())
    yield family("dapo_run_alerts_total", alerts)
    evaluated = [((*one.key, name), row) for one in seen for name, row in one.gauges.evaluations.items()]
    yield family("dapo_run_evaluation_step", [(key, row.get("step")) for key, row in evaluated])
    yield family("dapo_run_evaluation_avg_at_k_ratio", [(key, row.get("avg_at_k")) for key, row in evaluated])
    newest = [(one.key, one.gauges.rows[-1]) for one in seen if one.gauges.rows]
    for name, gauge in STEP_GAUGES.items():
        yield family(gauge.name, [(key, row.get(name)) for key, row in newest])
    yield from _of_workers(seen)
    yield from _of_redis(seen)


def _of_checkpoints(seen: Sequence[_Seen]) -> Iterator[Metric]:
    """Of runs that train."""
    trains = [one for one in seen if one.driver.spec.training.steps]
    intervals = [(one.key, one.driver.spec.checkpoint.every_steps) for one in trains]
    yield family("dapo_run_checkpoint_interval_steps", intervals)
    yield family("dapo_run_checkpoint_step", [(one.key, one.saved and one.saved.step) for one in trains])
    yield family("dapo_run_mirror_step", [(one.key, one.driver.gauges.mirrored_step) for one in trains])
    yield family("dapo_run_checkpoint_timestamp_seconds", [(one.key, _safe_until(one)) for one in trains])


def _safe_until(one: _Seen) -> float | None:
    """What the run has done since then a crash would cost. What it had done before it ran here, it has resumed from."""
    if (running_at := one.gauges.running_at) is None:
        return None
    return running_at if one.saved is None else max(one.saved.at, running_at)


def _of_workers(seen: Sequence[_Seen]) -> Iterator[Metric]:
    wanted, present = [], []
    for one in seen:
        wanted += [((*one.key, role), len(ids)) for role, ids in one.workers.items()]
        states = Counter((status.role, _state(status, one.counted)) for status in one.gauges.workers)
        present += [((*one.key, role, state), number) for (role, state), number in states.items()]
    yield family("dapo_run_workers_wanted", wanted)
    yield family("dapo_run_workers", present)
    yield family("dapo_run_generators_wanted", [(one.key, one.generators) for one in seen])


def _state(status: WorkerStatus, counted: Counted | None) -> str:
    silent = counted is not None and status.worker_id not in counted.measures.alive
    return "silent" if silent and status.state == WorkerState.RUNNING else status.state.value


def _of_redis(seen: Sequence[_Seen]) -> Iterator[Metric]:
    told = [(one.key, one.counted) for one in seen if one.counted is not None]
    measures = [(key, counted.measures) for key, counted in told]
    yield family("dapo_run_redis_up", [(one.key, one.counted is not None) for one in seen if one.gauges.bus])
    limits = [(one.key, one.driver.spec.resources.redis.memory_mib * 2**20) for one in seen]
    yield family("dapo_run_payload_limit_bytes", limits)
    yield family("dapo_run_payload_bytes", [(key, counted.payload_bytes) for key, counted in told])
    yield family("dapo_run_groups_issued_total", [(key, one.issued) for key, one in measures])
    yield family("dapo_run_dead_letters", [(key, one.dead_letters) for key, one in measures])
    yield family("dapo_run_groups", _by(measures, lambda one: one.groups))
    yield family("dapo_run_stream_entries", _by(measures, lambda one: one.streams))
    ready = [(key, sum(_serves(member) for member in one.members)) for key, one in measures]
    yield family("dapo_run_generators_ready", ready)


def _by(measures: Sequence[tuple[Key, Measures]], part: Callable[[Measures], Mapping[str, int]]) -> Iterator[Row]:
    return (((*key, name), number) for key, one in measures for name, number in part(one).items())


def _serves(member: messages.Member) -> bool:
    return not member.evaluates and member.HasField("version") and member.state in _SERVING
