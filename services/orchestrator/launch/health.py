"""What the state of a run's workers means. Pure: statuses and heartbeats in, one judgement a worker out."""

from collections.abc import Collection, Iterable
from enum import StrEnum
from typing import Literal, NamedTuple

from dapo.spec.workloads import Role
from services.orchestrator.launch.launcher import WorkerState, WorkerStatus

RestartPolicy = Literal["never", "on_failure"]


class HealthAction(StrEnum):
    EXPECTED = "expected"
    """Nothing is to be done about it; where there is a reason, somebody should know."""
    RESTART = "restart"
    FAIL = "fail"
    """The run cannot go on."""


class Judgement(NamedTuple):
    status: WorkerStatus
    action: HealthAction
    reason: str = ""
    """What is unusual about the worker, in words; empty where nothing is."""


def judge(
    statuses: Iterable[WorkerStatus], silent: Collection[str], *, may_end: Collection[Role], policy: RestartPolicy
) -> list[Judgement]:
    """Judge each worker.

    `silent` holds the ids of workers whose heartbeat was heard and has expired; one that was never heard is starting.
    `may_end` holds the roles that have nothing more to do, whose exit with code 0 is expected.
    """
    return [_judge(status, status.worker_id in silent, may_end, policy) for status in statuses]


def _judge(status: WorkerStatus, silent: bool, may_end: Collection[Role], policy: RestartPolicy) -> Judgement:
    if status.state in (WorkerState.EXITED, WorkerState.FAILED):
        if status.code == 0 and status.role in may_end:
            return Judgement(status, HealthAction.EXPECTED)
        return Judgement(status, HealthAction.RESTART if policy == "on_failure" else HealthAction.FAIL, str(status))
    if silent and status.state == WorkerState.RUNNING:
        # It may wake up; to end it for its silence alone takes more than this function is told.
        return Judgement(status, HealthAction.EXPECTED, f"{status.worker_id} sends no heartbeat")
    return Judgement(status, HealthAction.EXPECTED)
