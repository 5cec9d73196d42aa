"""Who is left alone after failures and for how long, and when a run has no generator left that can be served."""

from hypothesis import given
from hypothesis import strategies as st

from services.learner.weights.quarantine import LONGEST_PAUSE_S, Quarantine

NO_GENERATOR_S = 100.0
GAPS = st.lists(st.floats(0.01, 4.0), min_size=1, max_size=200)


def test_pauses_double_up_to_a_minute_and_begin_anew_after_an_update() -> None:
    quarantine = Quarantine(NO_GENERATOR_S)
    sentences = [quarantine.failed("a", "broken", 0.0) for _ in range(9)]
    assert [pause_s for pause_s, _ in sentences] == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert [first for _, first in sentences] == [True] + [False] * 8
    assert quarantine.served("a")
    assert not quarantine.served("a")
    assert quarantine.failed("a", "broken", 0.0) == (1, True)


def test_a_failure_that_cost_others_time_leaves_them_in_peace_for_ten_times_as_long() -> None:
    quarantine = Quarantine(NO_GENERATOR_S)
    assert quarantine.failed("a", "slow", 0.0, cost_s=60.0).pause_s == 600
    assert not quarantine.may_try("a", 599.0)
    assert quarantine.may_try("a", 600.0)
    assert not quarantine.may_try("a", 0.9, alone=True)
    assert quarantine.may_try("a", 1.0, alone=True)
    assert quarantine.failed("a", "slow", 0.0, cost_s=3600.0).pause_s == 1800
    assert quarantine.failed("a", "broken", 0.0, cost_s=0.1).pause_s == 4


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(0, 100)), max_size=60))
def test_a_generator_waits_for_its_own_pause_alone(events: list[tuple[str, bool, float]]) -> None:
    quarantine = Quarantine(NO_GENERATOR_S)
    until = dict.fromkeys("abc", 0.0)
    now = 0.0
    for name, success, gap in events:
        now += gap
        for other in "abc":
            assert quarantine.may_try(other, now) == (now >= until[other])
        if success:
            quarantine.served(name)
            until[name] = 0.0
        else:
            pause_s, _ = quarantine.failed(name, "broken", now)
            assert 1.0 <= pause_s <= LONGEST_PAUSE_S
            until[name] = now + pause_s


@given(GAPS, GAPS)
def test_time_without_a_generator_counts_from_when_one_served_last(before: list[float], after: list[float]) -> None:
    quarantine = Quarantine(NO_GENERATOR_S)
    now = 0.0
    for gap in before:
        now += gap
        quarantine.look(now, ready=True, waiting=False, serving=True)
        assert not quarantine.hopeless
    last = now
    for gap in after:
        now += gap
        quarantine.look(now, ready=False, waiting=False, serving=False)
    without_s = now - last
    if abs(without_s - NO_GENERATOR_S) > 1e-6:
        assert quarantine.hopeless == (without_s > NO_GENERATOR_S)


def test_nothing_counts_before_a_generator_was_ready() -> None:
    quarantine = Quarantine(NO_GENERATOR_S)
    for now in range(0, 1000, 4):
        quarantine.look(float(now), ready=False, waiting=False, serving=False)
    assert not quarantine.hopeless
    for now in range(1000, 1101, 4):
        quarantine.look(float(now), ready=True, waiting=False, serving=False)
    assert quarantine.hopeless


@given(GAPS, GAPS)
def test_time_in_which_a_generator_waits_for_the_learner_is_not_held_against_it(
    replay: list[float], after: list[float]
) -> None:
    quarantine = Quarantine(NO_GENERATOR_S)
    quarantine.look(0.0, ready=True, waiting=False, serving=False)
    now = NO_GENERATOR_S / 25
    quarantine.look(now, ready=True, waiting=False, serving=False)
    without_s = now
    for gap in replay:
        now += gap
        quarantine.look(now, ready=True, waiting=True, serving=False)
        assert not quarantine.hopeless
    for gap in after:
        now += gap
        without_s += gap
        quarantine.look(now, ready=True, waiting=False, serving=False)
    if abs(without_s - NO_GENERATOR_S) > 1e-6:
        assert quarantine.hopeless == (without_s > NO_GENERATOR_S)


def test_a_learner_that_stood_still_does_not_hold_it_against_the_generators() -> None:
    quarantine = Quarantine(NO_GENERATOR_S)
    quarantine.look(0.0, ready=True, waiting=False, serving=True)
    quarantine.look(10 * NO_GENERATOR_S, ready=False, waiting=False, serving=False)
    assert not quarantine.hopeless


def test_each_generator_left_out_has_its_reason() -> None:
    quarantine = Quarantine(NO_GENERATOR_S)
    quarantine.failed("b", "slow", 0.0)
    quarantine.failed("a", "broken", 0.0)
    quarantine.failed("a", "broken again", 0.0)
    assert quarantine.reasons() == ["a: broken again (failures in a row: 2)", "b: slow (failures in a row: 1)"]
