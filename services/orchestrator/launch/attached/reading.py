"""What records of agents tell of a run's workers. Pure."""

import signal

from dapo.bus.agents import Known, Placement
from dapo.spec.workloads import Role
from services.orchestrator.launch.launcher import WorkerState, WorkerStatus

_KILLED, _ENDED = -signal.SIGKILL, -signal.SIGTERM


def read_status(
    worker_id: str, role: Role, placement: Placement | None, known: Known | None, *, lost: bool
) -> WorkerStatus:
    """`known`: the worker's agent, None where it is not heard; `lost`: and has not been for long enough."""
    if placement is None:
        return WorkerStatus(worker_id, role, WorkerState.FAILED, _KILLED, f"no {role} agent has it")

    def status(state: WorkerState, code: int | None = None, reason: str = "") -> WorkerStatus:
        return WorkerStatus(worker_id, role, state, code, reason, instance=placement.number)

    if placement.gone:
        return status(WorkerState.FAILED, _ENDED, placement.gone)
    if known is None:
        if not lost:
            return status(WorkerState.RUNNING)
        reason = f"its agent {placement.agent_id} is not heard any more: it ended, or its machine or network did"
        return status(WorkerState.FAILED, _KILLED, reason)
    if known.order is None or known.order.number != placement.number:
        return status(WorkerState.EXITED, _ENDED)
    if (report := known.report) is None or report.state == "starting":
        return status(WorkerState.STARTING)
    if report.state == "failed":
        return status(WorkerState.FAILED, None, f"{report.reason} ({known.agent})")
    return status(WorkerState(report.state), report.code)


def has_failed(status: WorkerStatus) -> bool:
    """Whether it ended with an error, or could not be started, where its agent is: the agent may be why."""
    if status.state == WorkerState.EXITED:
        return status.code not in (0, _ENDED)
    return status.state == WorkerState.FAILED and status.code is None


def has_ended(status: WorkerStatus) -> bool:
    """Whether nothing runs of it any more, as far as its agent tells."""
    return status.state in (WorkerState.EXITED, WorkerState.FAILED)
