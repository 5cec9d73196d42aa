"""What the services that work for one run share: their environment, and running until SIGTERM."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from dapo.bus import Bus, BusError
from dapo.bus.keys import METRICS_ADDRESS, WORKERS
from dapo.bus.roles import ConsumesAndClaims
from dapo.errors import first_leaf
from dapo.host.addresses import ADDRESS, advertised_address
from dapo.host.processes import die_with_parent
from dapo.host.storage import EXIT_CODE, in_words, is_storage_error
from dapo.spec.tree.resources import RedisResources
from dapo.spec.workloads import OUTAGE
from dapo.telemetry import logs
from dapo.telemetry.server import METRICS_PORT, MetricsServer
from dapo.telemetry.server import PATH as METRICS_PATH

log = logging.getLogger(__name__)

LAST_WORDS = "error: "
"""How the last line of a worker's log begins where it says why the worker ended."""
_STDERR = 2
_LEAVE_S = 5.0
_PORTS = 1 << 16


class BadMetricsPort(ValueError):
    """Metrics cannot be exported at DAPO_METRICS_PORT; says what can be done."""


def _variable(name: str) -> str:
    """An environment variable that a launcher sets; leaves the process in words where it is missing."""
    value = os.environ.get(name)
    if not value:
        sys.exit(f"error: environment variable {name} is not set; a launcher starts the services")
    return value


@dataclass(frozen=True, slots=True)
class WorkerEnvironment:
    """Which worker of which run this process is. `read` is the only way in."""

    run_id: str
    run_dir: Path
    """Where this host has the run's folder: logs, and for the learner the checkpoints."""
    worker_id: str
    replica: int
    """Index of this worker among the `replicas` of its workload, from 0."""
    replicas: int
    redis_url: str
    payload_url: str | None
    outage_s: float
    """How long a Redis that is away is waited for."""
    term: int = 0
    """The epoch for which it acts; 0: for none."""
    term_role: str = WORKERS
    """Whose epoch that is: of the orchestrator's workers together, or of this one, as an agent has it (keys.placed)."""

    @classmethod
    def read(cls) -> "WorkerEnvironment":
        return cls(
            run_id=_variable("DAPO_RUN_ID"),
            run_dir=Path(_variable("DAPO_RUN_DIR")),
            worker_id=_variable("DAPO_WORKER_ID"),
            replica=int(os.environ.get("DAPO_REPLICA", "0")),
            replicas=int(os.environ.get("DAPO_REPLICAS", "1")),
            redis_url=_variable("DAPO_REDIS_URL"),
            payload_url=os.environ.get("DAPO_PAYLOAD_URL") or None,
            outage_s=float(os.environ.get(OUTAGE) or RedisResources().outage_s),
            term=int(os.environ.get("DAPO_TERM", "0")),
            term_role=os.environ.get("DAPO_TERM_ROLE") or WORKERS,
        )

    @property
    def address(self) -> str:
        """Under which the run's other workers reach this host. Raises OSError; see `advertised_address`."""
        return advertised_address(self.redis_url)

    def configure_logs(self, service: str) -> None:
        """Leaves the process in words where that cannot be."""
        try:
            logs.configure(service, self.run_id, self.worker_id)
        except logs.BadLogFormat as error:
            sys.exit(f"{LAST_WORDS}{error}")

    def export_metrics(self, bus: Bus) -> MetricsServer | None:
        """Where DAPO_METRICS_PORT asks for it: answers scrapes at this worker's address from now on, and says with each
        heartbeat where. Raises BadMetricsPort, OSError as `address` does."""
        if not (given := os.environ.get(METRICS_PORT)):
            return None
        if not given.isdecimal() or int(given) >= _PORTS:
            choice = f"take 0 to {_PORTS - 1}, where 0 is a free one"
            raise BadMetricsPort(f"{METRICS_PORT} = {given!r} is no port: {choice}")
        address = self.address
        try:
            server = MetricsServer(address, int(given), {"run": self.run_id, "worker": self.worker_id})
        except OSError as error:
            cure = "take 0, for a free port, or another one for each worker of a host"
            raise BadMetricsPort(f"{METRICS_PORT} = {given}: cannot listen at {address} ({error}): {cure}") from error
        bus.registry.advertise(METRICS_ADDRESS.format(self.worker_id), server.address)
        log.info("metrics at http://%s%s", server.address, METRICS_PATH)
        return server

    async def connect(self) -> Bus:
        """A bus that is refused once another holds the role for whose epoch it acts. Raises BusUnavailable."""
        bus = await Bus.connect(self.redis_url, self.run_id, payload_url=self.payload_url, outage_s=self.outage_s)
        if self.term:
            bus.act_for(self.term_role, self.term)
        return bus


def host_environment(run_dir: Path, redis_url: str, devices: Sequence[str] | None, address: str) -> dict[str, str]:
    """What a worker's own host adds to its environment, whoever starts it there. `devices` None: it gets no GPU.
    `address` "": it finds its own."""
    environment = {
        "DAPO_RUN_DIR": str(run_dir),
        "DAPO_REDIS_URL": redis_url,
        "CUDA_VISIBLE_DEVICES": ",".join(devices or ()),
        "PYTHONUNBUFFERED": "1",
    }
    if address:
        environment[ADDRESS] = address
    if not devices:
        # More than one thread a process slows small models down on a CPU.
        environment["OMP_NUM_THREADS"] = "1"
    if os.environ.get(METRICS_PORT):
        # The workers of a host share an address.
        environment[METRICS_PORT] = "0"
    return environment


async def _until_stopped(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.create_task(work)
    stopping = False

    def stop() -> None:
        nonlocal stopping
        stopping = True
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if not stopping:
            raise


async def leave_stream(streams: ConsumesAndClaims, stream: str, worker_id: str) -> None:
    """Hand back what this worker holds of a stream that it reads no more. What Redis does not take within five seconds
    others claim."""
    try:
        async with asyncio.timeout(_LEAVE_S):
            await streams.leave(stream, worker_id)
    except (BusError, TimeoutError) as error:
        log.warning("%s were not handed back: %s", stream, str(error) or f"no answer for {_LEAVE_S:g} s")


def leave(status: int) -> NoReturn:
    """End this process once all that matters is closed. Taking torch and the like apart in order costs seconds on a
    busy machine, and threads in collectives that nobody will answer would be waited for."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run_worker(
    service: str, work: Callable[[WorkerEnvironment], Coroutine[Any, Any, None]], expected: tuple[type[Exception], ...]
) -> int:
    """Run a service until it is stopped; the exit code. `expected` errors are its last log line, others a traceback.
    `service`: its name in the log."""
    die_with_parent()
    environment = WorkerEnvironment.read()
    environment.configure_logs(service)
    fatal: list[BaseException] = []
    refused: list[BaseException] = []
    try:
        asyncio.run(_until_stopped(work(environment)))
    except* OSError as group:
        storage, others = group.split(is_storage_error)
        refused.extend(storage.exceptions if storage else ())
        if others is not None:
            raise others from None
    except* expected as group:
        fatal.extend(group.exceptions)
    for error in fatal:
        log.error("%s ends: %s", environment.worker_id, first_leaf(error))
    if refused:
        tell_last(in_words(first_leaf(refused[0]), environment.run_dir))
        return EXIT_CODE
    return 1 if fatal else 0


def tell_last(text: str) -> None:
    """The last line of this process's log. A log on a disk that is full is done without."""
    with contextlib.suppress(OSError):
        os.write(_STDERR, f"{logs.line(__name__, f'{LAST_WORDS}{text}')}\n".encode())


def last_words(line: str) -> str | None:
    """Why a worker ended, where the last line of its log says so."""
    said = logs.message_of(line)
    return said.removeprefix(LAST_WORDS) if said.startswith(LAST_WORDS) else None
