"""What places a run's workloads: the seam between the run service and machines.

`local` starts child processes; a launcher of other hosts maps the same calls to what is at home there. Nothing behind
this seam decides anything about a run: whether an exit is expected, a restart or a failure says `health.py`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from dapo.host.processes import describe_exit
from dapo.spec.workloads import Role, Workload


class LaunchError(RuntimeError):
    """A worker cannot be placed, or does not go away; says which and what to do."""


@dataclass(frozen=True)
class RunTarget:
    """What every worker of a run is told, wherever it runs."""

    run_id: str
    redis_url: str
    payload_url: str | None
    """Of the payloads' own server, if any."""
    run_dir: Path
    """The run's folder as the run service sees it. A launcher of other hosts gives its workers a volume instead."""
    term: int = 0
    """Epoch of keys.WORKERS for which they act: once another orchestrator leads the run, they write nothing."""
    epoch: int = 0
    """Of the orchestrator that asks: the newest that leads the run. 0: of none."""


def told_environment(run: RunTarget, workload: Workload, index: int) -> dict[str, str]:
    """What the environment of a worker has that is the same on every host, beside its workload's own."""
    environment = {
        "DAPO_RUN_ID": run.run_id,
        "DAPO_WORKER_ID": workload.worker_ids[index],
        "DAPO_REPLICA": str(index),
        "DAPO_REPLICAS": str(workload.replicas),
    }
    if run.payload_url is not None:
        environment["DAPO_PAYLOAD_URL"] = run.payload_url
    return environment


class WorkerState(StrEnum):
    STARTING = "starting"
    """Accepted, not running yet."""
    RUNNING = "running"
    EXITED = "exited"
    """It ran, and ended by itself or by a signal."""
    FAILED = "failed"
    """It cannot be started, or was taken away; `reason` says why."""


@dataclass(frozen=True)
class WorkerStatus:
    worker_id: str
    role: Role
    state: WorkerState
    code: int | None = None
    """Of an exited worker the exit code, or minus the signal that ended it; of one that was taken away with its
    machine, as if it had been killed."""
    reason: str = ""
    """Of a failed worker: why, in words. Of one that starts: what it waits for, where that is unusual."""
    instance: str = ""
    """Tells a worker from the one of the same id that was started before it."""

    def __str__(self) -> str:
        if self.state == WorkerState.EXITED and self.code is not None:
            return f"{self.worker_id} {describe_exit(self.code)}"
        if self.state == WorkerState.FAILED:
            return f"{self.worker_id} failed: {self.reason}"
        return f"{self.worker_id} is {self.state.value}"


class LogTail(NamedTuple):
    source: str
    """Where the whole log is: a file's path, or how to ask for it."""
    text: str
    """Its last lines."""


class Launcher(Protocol):
    """Places workloads of any number of runs. Every method may be called again: it brings about what it says."""

    @property
    def elastic(self) -> bool:
        """Whether places come and go while runs go on: one may grow into them (resources.generator.max_replicas)."""

    @property
    def keeps_workers(self) -> bool:
        """Whether workers go on, for the term that they have, when their run service is shut down, or dies: a later one
        takes them over (`adopt`), or dismisses them."""

    async def apply(self, run: RunTarget, workloads: Sequence[Workload]) -> None:
        """Have just these workloads run, each with so many replicas: workers that are missing or have ended are
        started, those beyond the count or of no workload any more are stopped.

        Raises LaunchError; then none is left that was started for it, and the run has the workers of before, of which
        those that were to be stopped may have ended."""

    async def restart(self, run_id: str, worker_ids: Collection[str]) -> None:
        """End these workers of a run that is applied, where they still run, and start them anew. Raises LaunchError."""

    async def observe(self, run_id: str) -> list[WorkerStatus]:
        """Every worker of the run as it is now, in the order of the workloads; none of a run that is not applied.

        One that was applied has a status from then on, whatever becomes of it. Raises LaunchError where what places the
        workers does not answer within its own bound; the run then fails.
        """

    async def logs(self, run_id: str, worker_id: str) -> LogTail:
        """The end of a worker's log, also of one that has ended."""

    async def stop(self, run_id: str) -> None:
        """End the run's workers, and return once they are gone. Raises LaunchError naming those that are not."""

    async def leave(self, run_id: str) -> None:
        """The run is no more this launcher's: where it `keeps_workers`, they go on; elsewhere as `stop`."""

    async def adopt(self, run: RunTarget, workloads: Sequence[Workload]) -> list[WorkerStatus]:
        """Take over the workers that an earlier run service has left, as they are; none where they ended with it.
        Raises LaunchError."""
