"""Judgements of workers: pure, over every state."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.launch.health import HealthAction, judge
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


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (exited("generator", 3), "generator-0 exited with code 3"),
        (exited("generator", -9), "generator-0 was ended by signal 9"),
        (exited("learner", 0), "learner-0 exited with code 0"),
        (WorkerStatus("g-0", "generator", WorkerState.FAILED, reason="no such image"), "g-0 failed: no such image"),
    ],
)
def test_an_end_that_nobody_expects_fails_the_run_in_words(status: WorkerStatus, words: str) -> None:
    (judgement,) = judge([status], (), may_end=(), policy="never")
    assert (judgement.action, judgement.reason) == (HealthAction.FAIL, words)
    (judgement,) = judge([status], (), may_end=(), policy="on_failure")
    assert (judgement.action, judgement.reason) == (HealthAction.RESTART, words)


def test_only_code_0_of_a_role_that_may_end_is_expected() -> None:
    judged = judge(
        [exited("learner", 0), exited("learner", 1), exited("verifier", 0)], (), may_end={"learner"}, policy="never"
    )
    assert [one.action for one in judged] == [HealthAction.EXPECTED, HealthAction.FAIL, HealthAction.FAIL]


def test_silence_is_told_and_ends_no_run() -> None:
    status = WorkerStatus("learner-0", "learner", WorkerState.RUNNING)
    (judgement,) = judge([status], {"learner-0"}, may_end=(), policy="never")
    assert (judgement.action, judgement.reason) == (HealthAction.EXPECTED, "learner-0 sends no heartbeat")
    assert judge([status], {"learner-0"}, may_end=(), policy="on_failure") == [judgement]


@given(
    statuses=st.lists(STATUSES),
    silent=st.sets(st.sampled_from(["a-0", "a-1"])),
    may_end=st.sets(st.sampled_from(ROLES)),
    policy=st.sampled_from(["never", "on_failure"]),
)
def test_every_worker_is_judged_and_the_policy_is_kept(statuses, silent, may_end, policy) -> None:
    judged = judge(statuses, silent, may_end=may_end, policy=policy)
    assert [one.status for one in judged] == statuses
    assert all(one.action != (HealthAction.RESTART if policy == "never" else HealthAction.FAIL) for one in judged)
    for one in judged:
        if one.action != HealthAction.EXPECTED:
            assert one.reason
        if one.status.state == WorkerState.STARTING:
            assert one.action == HealthAction.EXPECTED
