"""Judgements of workers and budgets of restarts: pure, over every state."""

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.host.storage import EXIT_CODE
from dapo.spec.tree.resources import RestartSpec
from dapo.spec.workloads import Role
from services.orchestrator.launch.health import HealthAction, Judgement, RestartBudget, judge
from services.orchestrator.launch.launcher import WorkerState, WorkerStatus

ROLES = ("generator", "verifier", "learner")
STATUSES = st.builds(
    WorkerStatus,
    worker_id=st.sampled_from(["a-0", "a-1"]),
    role=st.sampled_from(ROLES),
    state=st.sampled_from(WorkerState),
    code=st.one_of(st.none(), st.integers(-15, 5)),
)


def exited(role: str, code: int) -> WorkerStatus:
    return WorkerStatus(f"{role}-0", role, WorkerState.EXITED, code)


SPEC = RestartSpec(silence_s=60.0, start_s=300.0)


def judge_one(
    status: WorkerStatus,
    *,
    silent_s: float | None = None,
    unheard_s: float | None = None,
    proven: bool = True,
    may_end: Collection[Role] = (),
) -> Judgement:
    silences = {} if silent_s is None else {status.worker_id: silent_s}
    unheard = {} if unheard_s is None else {status.worker_id: unheard_s}
    (judgement,) = judge([status], silences, unheard, may_end=may_end, proven=proven, spec=SPEC)
    return judgement


@pytest.mark.parametrize(
    ("status", "words", "before_weights"),
    [
        (exited("generator", 3), "generator-0 exited with code 3", HealthAction.FAIL),
        (exited("generator", -9), "generator-0 was ended by signal 9", HealthAction.RESTART),
        (exited("learner", 0), "learner-0 exited with code 0", HealthAction.FAIL),
        (
            WorkerStatus("g-0", "generator", WorkerState.FAILED, reason="no image"),
            "g-0 failed: no image",
            HealthAction.FAIL,
        ),
    ],
)
def test_an_end_that_nobody_expects_is_mended_by_a_restart_where_that_can_help(
    status: WorkerStatus, words: str, before_weights: HealthAction
) -> None:
    judgement = judge_one(status)
    assert (judgement.action, judgement.reason) == (HealthAction.RESTART, words)
    judgement = judge_one(status, proven=False)
    assert (judgement.action, judgement.reason) == (before_weights, words)


def test_a_disk_that_refuses_is_not_mended_by_a_restart() -> None:
    assert judge_one(exited("learner", EXIT_CODE)).action == HealthAction.FAIL


def test_only_code_0_of_a_role_that_may_end_is_expected() -> None:
    judged = [
        judge_one(status, may_end={"learner"})
        for status in (exited("learner", 0), exited("learner", 1), exited("verifier", 0))
    ]
    assert [one.action for one in judged] == [HealthAction.EXPECTED, HealthAction.RESTART, HealthAction.RESTART]


def test_silence_is_told_first_and_acted_upon_later() -> None:
    status = WorkerStatus("learner-0", "learner", WorkerState.RUNNING)
    judgement = judge_one(status, silent_s=59.0)
    assert (judgement.action, judgement.reason) == (HealthAction.EXPECTED, "learner-0 sends no heartbeat")
    judgement = judge_one(status, silent_s=61.0)
    assert (judgement.action, judgement.reason) == (HealthAction.RESTART, "learner-0 sent no heartbeat for 61 s")


@pytest.mark.parametrize("proven", [False, True])
def test_one_that_was_never_heard_has_time_to_start_and_no_more(proven: bool) -> None:
    status = WorkerStatus("learner-0", "learner", WorkerState.RUNNING)
    judgement = judge_one(status, unheard_s=299.0, proven=proven)
    assert (judgement.action, judgement.reason) == (HealthAction.EXPECTED, "")
    judgement = judge_one(status, unheard_s=300.0, proven=proven)
    assert (judgement.action, judgement.reason) == (
        HealthAction.RESTART,
        "learner-0 sent no heartbeat for 300 s after its start",
    )


@given(
    statuses=st.lists(STATUSES),
    unheard=st.dictionaries(st.sampled_from(["a-0", "a-1"]), st.floats(0, 600)),
    silences=st.dictionaries(st.sampled_from(["a-0", "a-1"]), st.floats(0, 100)),
    may_end=st.sets(st.sampled_from(ROLES)),
    proven=st.booleans(),
)
def test_every_worker_is_judged_and_who_is_acted_upon_is_told_why(statuses, unheard, silences, may_end, proven) -> None:
    judged = judge(statuses, silences, unheard, may_end=may_end, proven=proven, spec=SPEC)
    assert [one.status for one in judged] == statuses
    for one in judged:
        if one.action != HealthAction.EXPECTED:
            assert one.reason
        if one.status.state == WorkerState.STARTING:
            assert one.action == HealthAction.EXPECTED


@given(limit=st.integers(1, 6), start_s=st.floats(10, 10_000))
def test_restarts_of_one_that_is_never_heard_come_to_an_end_however_long_each_takes(limit: int, start_s: float) -> None:
    budget, now_s = RestartBudget(RestartSpec(limit=limit, window_s=100.0)), 0.0
    for _ in range(limit):
        now_s += start_s
        pause_s = budget.spend(now_s, heard=False)
        assert pause_s is not None
        now_s += min(pause_s, 1.0)
    assert budget.spend(now_s + start_s, heard=False) is None
    assert budget.spend(now_s + start_s + 101.0) is not None


@given(
    gaps=st.lists(st.floats(0, 50), max_size=40),
    limit=st.integers(0, 6),
    pause_s=st.floats(0, 10),
    longest_pause_s=st.floats(0, 60),
)
def test_a_budget_bounds_the_restarts_of_any_window_and_pauses_grow_in_a_row(
    gaps: list[float], limit: int, pause_s: float, longest_pause_s: float
) -> None:
    spec = RestartSpec(limit=limit, window_s=100.0, pause_s=pause_s, longest_pause_s=longest_pause_s)
    budget, now_s = RestartBudget(spec), 0.0
    granted: list[float] = []
    in_a_row = 0
    for gap in gaps:
        now_s += gap
        recent = [at for at in granted if now_s - at < spec.window_s]
        pause = budget.spend(now_s)
        assert (pause is None) == (len(recent) >= limit)
        if pause is not None:
            near = bool(recent) and now_s - recent[-1] <= 2 * longest_pause_s
            in_a_row = in_a_row + 1 if near else 0
            assert pause == (min(longest_pause_s, pause_s * 2 ** (in_a_row - 1)) if in_a_row else 0.0)
            granted.append(now_s)
        assert budget.used == len([at for at in granted if now_s - at < spec.window_s])


def test_what_a_worker_waits_for_before_it_starts_is_told_and_no_reason_to_do_anything() -> None:
    status = WorkerStatus("g-0", "generator", WorkerState.STARTING, reason="no node takes it (0/3 nodes)")
    told = judge_one(status, silent_s=1e6, unheard_s=1e6)
    assert told == (status, HealthAction.EXPECTED, "g-0 is not started yet: no node takes it (0/3 nodes)")
    silent = WorkerStatus("g-0", "generator", WorkerState.STARTING)
    assert judge_one(silent, silent_s=1e6) == (silent, HealthAction.EXPECTED, "")
