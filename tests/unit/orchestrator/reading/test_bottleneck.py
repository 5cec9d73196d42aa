"""Which stage is named the slowest, and by which number."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orchestrator.reading.bottleneck import STEPS, bottleneck

seconds = st.floats(min_value=0, max_value=1e4)
rows = st.lists(
    st.fixed_dictionaries(
        {
            "step_s": st.floats(min_value=0.01, max_value=1e5),
            "learner_wait_s": seconds,
            "train_s": seconds,
            "weight_sync_s": st.none() | seconds,
        }
    ),
    min_size=1,
    max_size=3 * STEPS,
)


def row(wait, train, sync, step=None):
    return {"step_s": step or wait + train + sync, "learner_wait_s": wait, "train_s": train, "weight_sync_s": sync}


@pytest.mark.parametrize(
    ("parts", "issued", "ungraded", "stage", "number"),
    [
        ((7, 2, 1), 8, 2, "generation", "70 % of a step"),
        ((7, 2, 1), 2, 8, "grading", "8 of 10 groups"),
        ((2, 7, 1), 2, 8, "training", "70 % of a step"),
        ((2, 1, 7), 8, 2, "weights", "70 % of a step"),
    ],
)
def test_the_longest_part_of_a_step_names_the_stage(parts, issued, ungraded, stage, number):
    found = bottleneck([row(*parts)], issued, ungraded)
    assert found is not None
    assert found.stage == stage
    assert number in found.text


def test_nothing_is_said_before_a_step_was_measured():
    assert bottleneck([], 4, 4) is None
    assert bottleneck([{"step_s": None, "learner_wait_s": 1.0, "train_s": 1.0}, {"step": 1}], 4, 4) is None


def test_steps_long_ago_do_not_count():
    old, new = [row(9, 1, 0)] * 50, [row(1, 9, 0)] * STEPS
    assert bottleneck(old, 1, 0).stage == "generation"
    assert bottleneck(old + new, 1, 0).stage == "training"


@given(rows, st.integers(0, 1000), st.integers(0, 1000))
def test_no_part_is_longer_than_the_one_that_is_named(rows, issued, ungraded):
    found = bottleneck(rows, issued, ungraded)
    newest = rows[-STEPS:]
    total = {name: sum(one[name] or 0.0 for one in newest) for name in ("learner_wait_s", "train_s", "weight_sync_s")}
    named = {"training": "train_s", "weights": "weight_sync_s"}.get(found.stage, "learner_wait_s")
    assert total[named] >= max(total.values()) * (1 - 1e-9)
    assert 0 <= found.share <= 1
    assert (found.stage == "grading") <= (ungraded > issued)


@pytest.mark.parametrize("part", ["step_s", "learner_wait_s", "train_s", "weight_sync_s"])
@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_step_with_a_number_that_is_none_does_not_count(part, number):
    odd = {**row(9, 1, 1), part: number}
    assert bottleneck([odd], 1, 0) is None
    assert bottleneck([odd, row(1, 9, 0)], 1, 0).stage == "training"
