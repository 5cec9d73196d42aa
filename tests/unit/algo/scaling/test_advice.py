"""Properties of the number of generators that a run wants."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.algo.scaling import GENERATOR_SLACK, LEARNER_SLACK, Advice, Limits, advise, best_share

WINDOW = 8
DEFAULT = Limits()
COUNTS = st.integers(1, 64)
BALANCES = st.floats(0.05, 200.0)


def in_balance(count: int, balance: float) -> bool:
    return math.ceil((1 - LEARNER_SLACK) * balance) <= count <= max(1, math.ceil((1 + GENERATOR_SLACK) * balance))


def row(step: int, balance: float, generators: float, **other: float | None) -> dict[str, float | None]:
    """A step of 512 responses of 100 tokens that so many generators as `balance` would keep up with."""
    return {
        "step": step,
        "step_s": 20.0,
        "learner_idle": 0.5,
        "generator_idle": 0.0,
        "generated_tokens_per_s": 512 * 100 / 0.5 / 10 / balance * generators,
        "generators": generators,
        "keep_rate": 0.5,
        "response_length_mean": 100.0,
    } | other


def rows(balance: float, generators: float, steps: int = WINDOW) -> list[dict[str, float | None]]:
    return [row(step, balance, generators) for step in range(1, steps + 1)]


def asked(balance: float, count: int, limits: Limits = DEFAULT) -> Advice:
    return advise(rows(balance, count), responses=512, count=count, limits=limits)


def test_the_balance_is_what_is_generated_for_a_step_over_what_a_generator_makes_while_the_learner_works():
    """512 · 100 / 0.5 = 102400 tokens; 4 generators that are busy for half of the time make 5120 a second, one that is
    busy 2560; the learner works 20 · (1 − 0.6) = 8 s. 102400 / (2560 · 8) = 5."""
    measured = row(1, 1, 4, generated_tokens_per_s=5120.0, generator_idle=0.5, learner_idle=0.6)
    advice = advise(
        [{**measured, "step": step} for step in range(1, WINDOW + 1)], responses=512, count=4, limits=Limits()
    )
    assert advice.balance == pytest.approx(5)
    assert advice.wanted == 5
    assert "keep rate 0.50" in advice.reason
    assert "waited 60 %" in advice.reason


def test_the_best_share_moves_with_the_keep_rate():
    """W_g = 2 W_t: two thirds of the devices; at keep rate 0.3, 20/23."""
    assert best_share(2, 1) == pytest.approx(2 / 3)
    assert best_share(2 / 0.3, 1) == pytest.approx(0.87, abs=0.001)


@given(BALANCES, BALANCES, COUNTS)
def test_more_work_never_asks_for_fewer(one: float, other: float, count: int):
    assert asked(min(one, other), count).wanted <= asked(max(one, other), count).wanted


@given(BALANCES, COUNTS, st.integers(1, 10), st.integers(0, 10))
def test_the_number_is_within_its_limits(balance: float, count: int, least: int, more: int):
    assert least <= asked(balance, count, Limits(least, least + more)).wanted <= least + more


@given(BALANCES, COUNTS)
def test_the_same_measures_lead_to_a_number_that_stays_in_one_direction(balance: float, count: int):
    path = [count]
    while (wanted := asked(balance, path[-1]).wanted) != path[-1]:
        path.append(wanted)
    assert len(path) <= 12, "each change at least halves the way, in factors"
    assert path in (sorted(path), sorted(path, reverse=True))
    assert in_balance(path[-1], balance) or in_balance(path[-1], balance * (1 + 1e-9)), "but for rounding"


@given(BALANCES, COUNTS, st.integers(0, WINDOW - 1), BALANCES)
def test_one_odd_step_changes_nothing(balance: float, count: int, odd: int, oddly: float):
    measured = rows(balance, count)
    measured[odd] = row(odd + 1, oddly, count)
    assert advise(measured, responses=512, count=count, limits=Limits()).wanted == asked(balance, count).wanted


@given(BALANCES, COUNTS, st.floats(0.8, 1.25))
def test_a_change_is_not_taken_back_for_an_n_that_is_less_than_a_quarter_off(balance: float, count: int, off: float):
    changed = asked(balance, count).wanted
    if changed != count and in_balance(changed, balance) and (back := asked(balance * off, changed).wanted) != changed:
        assert (back > changed) == (changed > count), "further on, but not back"


def test_nothing_changes_before_a_window_is_measured_after_the_last_change():
    steps = rows(8, 2, steps=12)
    early = advise(steps[:7], responses=512, count=2, limits=Limits())
    assert (early.wanted, early.balance, early.reason) == (2, None, "7 of 8 steps are measured")
    again = advise(steps, responses=512, count=2, limits=Limits(), since=5)
    assert (again.wanted, again.reason) == (2, "7 of 8 steps are measured since the last change")
    assert advise(steps, responses=512, count=2, limits=Limits(), since=4).wanted == 4


@pytest.mark.parametrize("name", row(1, 1, 1).keys())
def test_a_step_without_a_measure_does_not_count(name: str):
    for nothing in (None, math.nan, math.inf):
        unmeasured = row(9, 100, 2) | {name: nothing}
        assert advise([*rows(2, 2), unmeasured], responses=512, count=2, limits=Limits()).wanted == 2
    without = [{key: value for key, value in one.items() if key != name} for one in rows(8, 2)]
    assert advise(without, responses=512, count=2, limits=Limits()).balance is None


def test_no_more_are_asked_for_while_one_does_not_work_yet():
    steps = [*rows(8, 3, steps=7), row(8, 8, 2)]
    advice = advise(steps, responses=512, count=3, limits=Limits())
    assert advice.wanted == 3
    assert "2 of 3 work yet" in advice.reason
    assert advise(rows(1, 2), responses=512, count=3, limits=Limits()).wanted == 2, "but fewer are"


def test_none_is_added_while_the_learner_does_not_wait():
    """Batches made ahead are used up first, whatever those to come ask for."""
    steps = [one | {"learner_idle": 0.05} for one in rows(8, 2)]
    assert advise(steps, responses=512, count=2, limits=Limits()).wanted == 2
    assert advise(steps, responses=512, count=30, limits=Limits()).wanted < 30, "but some may leave"


def test_a_limit_is_named_with_what_it_holds_back():
    assert "autoscale allows no more than 3" in asked(8, 3, Limits(1, 3)).reason
    assert "autoscale keeps no fewer than 3" in asked(1, 3, Limits(3, 8)).reason
