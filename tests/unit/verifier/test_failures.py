"""The circuit breaker and the failure alarm, on a clock of the test's."""

from hypothesis import given
from hypothesis import strategies as st

from services.verifier.graders import right, wrong
from services.verifier.grading.failure_alert import _MIN_VERDICTS, _PERIOD_S, FailureAlert
from services.verifier.remote.circuit_breaker import CircuitBreaker


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_it_opens_after_failures_in_a_row_and_closes_after_a_trial() -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock, failures=3, open_s=10)
    for outcome in (breaker.failed, breaker.failed, breaker.succeeded, breaker.failed, breaker.failed):
        assert breaker.admits()
        outcome()
    assert breaker.admits()
    breaker.failed()
    assert not breaker.admits()
    clock.now = 9.9
    assert not breaker.admits()
    clock.now = 10
    assert breaker.admits()
    assert not breaker.admits(), "one on trial is enough"
    breaker.failed()
    clock.now = 19.9
    assert not breaker.admits()
    clock.now = 20
    assert breaker.admits()
    breaker.abandoned()
    assert breaker.admits()
    breaker.succeeded()
    assert breaker.admits()
    assert breaker.admits()


@given(st.lists(st.tuples(st.floats(0, 5), st.sampled_from(["succeeded", "failed", "abandoned"])), max_size=60))
def test_whatever_happens_it_admits_again_in_time_and_then_closes(story: list[tuple[float, str]]) -> None:
    clock = Clock()
    breaker = CircuitBreaker(clock, failures=2, open_s=3)
    row = 0
    for passed_s, outcome in story:
        clock.now += passed_s
        if breaker.admits():
            getattr(breaker, outcome)()
            row = {"succeeded": 0, "failed": row + 1, "abandoned": row}[outcome]
        else:
            assert row >= 2, "refused without failures in a row"
    clock.now += 3
    assert breaker.admits()
    breaker.succeeded()
    assert breaker.admits()


def test_the_alarm_goes_off_once_a_period_and_names_what_fails() -> None:
    clock = Clock()
    alarm = FailureAlert(clock)
    good, bad = ("exact", right("equal")), ("mine", wrong("unavailable", "https://x: status 500"))
    assert alarm.observe([good] * 100) is None
    assert alarm.observe([("exact", wrong("different"))] * 100) is None, "a wrong answer is no failure"
    assert alarm.observe([bad] * 5) is None
    message = alarm.observe([bad] * 10)
    assert message == "15 of 215 gradings failed (mine unavailable 15): https://x: status 500"
    assert alarm.observe([bad] * 1000) is None
    clock.now = _PERIOD_S
    assert alarm.observe([("other", wrong("timeout"))]) == (
        "1001 of 1001 gradings failed (mine unavailable 1000, other timeout 1): https://x: status 500"
    )
    clock.now = 10 * _PERIOD_S
    assert alarm.observe([bad] * (_MIN_VERDICTS - 1)) is None
    assert alarm.observe([bad]) is not None
