"""What records of agents tell of a worker, and what the health rule makes of it."""

import pytest

from dapo.bus.agents import Agent, Known, Order, Placement, Report
from dapo.spec.tree.resources import RestartSpec
from dapo.spec.workloads import MODULES
from services.orchestrator.launch.attached.reading import has_ended, has_failed, read_status
from services.orchestrator.launch.health import HealthAction, judge
from services.orchestrator.launch.launcher import WorkerState

AGENT = Agent("box-generator-1", "generator", "box")
ORDER = Order("run", "generator-0", "generator", MODULES["generator"], "runs/run", number="7")
PLACED = Placement(AGENT.agent_id, "7", "generator", "")


def known(report: Report | None, order: Order | None = ORDER) -> Known:
    return Known(AGENT, order, report, "")


@pytest.mark.parametrize(
    ("placement", "agent", "lost", "state", "code", "failed"),
    [
        (PLACED, known(None), False, WorkerState.STARTING, None, False),
        (PLACED, known(Report("starting")), False, WorkerState.STARTING, None, False),
        (PLACED, known(Report("running")), False, WorkerState.RUNNING, None, False),
        (PLACED, known(Report("exited", 3)), False, WorkerState.EXITED, 3, True),
        (PLACED, known(Report("exited", 0)), False, WorkerState.EXITED, 0, False),
        (PLACED, known(Report("exited", -9)), False, WorkerState.EXITED, -9, True),
        (PLACED, known(Report("failed", reason="no such file")), False, WorkerState.FAILED, None, True),
        (PLACED, known(Report("running"), None), False, WorkerState.EXITED, -15, False),
        (PLACED, None, False, WorkerState.RUNNING, None, False),
        (PLACED, None, True, WorkerState.FAILED, -9, False),
        (PLACED._replace(gone="the agent was told to leave"), None, False, WorkerState.FAILED, -15, False),
        (None, None, False, WorkerState.FAILED, -9, False),
    ],
)
def test_states(
    placement: Placement | None, agent: Known | None, lost: bool, state: WorkerState, code: int | None, failed: bool
) -> None:
    status = read_status("generator-0", "generator", placement, agent, lost=lost)
    assert (status.state, status.code) == (state, code)
    assert status.instance == ("7" if placement else "")
    assert has_failed(status) == failed
    assert has_ended(status) == (state in (WorkerState.EXITED, WorkerState.FAILED))


@pytest.mark.parametrize("placement", [PLACED, None])
def test_a_worker_that_is_lost_with_its_agent_is_started_again_also_before_first_weights(
    placement: Placement | None,
) -> None:
    status = read_status("generator-0", "generator", placement, None, lost=True)
    (judgement,) = judge([status], {}, {}, may_end=(), proven=False, spec=RestartSpec())
    assert judgement.action == HealthAction.RESTART
    assert "agent" in judgement.reason


def test_what_an_agent_refuses_ends_a_run_that_has_not_worked_yet() -> None:
    status = read_status("generator-0", "generator", PLACED, known(Report("failed", reason="no disk")), lost=False)
    (judgement,) = judge([status], {}, {}, may_end=(), proven=False, spec=RestartSpec())
    assert judgement.action == HealthAction.FAIL
    assert judgement.reason == "generator-0 failed: no disk (agent box-generator-1 on box)"
