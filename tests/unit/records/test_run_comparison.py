"""Runs side by side: aligned by step, evaluations judged by their intervals, what differs in the specs."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.records.evaluations import Point
from dapo.records.measured.comparison import RunFacts, compare, judge, spec_differences, standing
from dapo.records.measured.series import Series, make_series


def series(steps: int, accuracy: float = 0.0) -> Series:
    rows = [
        {"step": step, "accuracy_mean": accuracy + step / 100, "generated_tokens_per_s": 50.0, "time_s": 2.0 * step}
        for step in range(1, steps + 1)
    ]
    return make_series(rows, [], steps)


def evaluation(step: int, value: float, name: str = "aime") -> dict[str, Any]:
    average = {"value": value, "low": value - 0.05, "high": value + 0.05}
    return {"set": name, "step": step, "samples": 4, "avg_at_k": average}


def facts(name: str, steps: int, *evaluations: dict[str, Any], accuracy: float = 0.0, **spec: Any) -> RunFacts:
    return RunFacts(name, "succeeded", steps, series(steps, accuracy), evaluations, {"name": name, **spec})


def test_runs_are_aligned_at_the_newest_step_that_all_have() -> None:
    found = compare([facts("a", 20), facts("b", 10, accuracy=0.5)])
    assert found.common_step == 10
    first, second = found.runs
    assert first.common is not None
    assert second.common is not None
    assert (first.common.step, first.common.accuracy, first.common.time_s) == (10, pytest.approx(0.08), 20.0)
    assert second.common.accuracy == pytest.approx(0.58)
    assert first.last is not None
    assert (first.last.step, first.last.accuracy, first.last.tokens_per_s) == (20, pytest.approx(0.18), 50.0)
    assert first.last.reward is None, "it was not measured"
    assert second.last == second.common


def test_a_run_without_a_step_stands_nowhere() -> None:
    found = compare([facts("a", 20), facts("b", 0)])
    assert (found.common_step, found.runs[0].common, found.runs[1].last) == (0, None, None)
    assert found.runs[0].last is not None


def test_a_thinned_curve_is_aligned_at_what_it_has() -> None:
    thinned = make_series([{"step": step, "accuracy_mean": 1.0} for step in (3, 6, 9)], [], 9)
    at = standing(thinned, 8)
    assert at is not None
    assert at.step == 6
    assert standing(thinned, 2) is None


def test_evaluations_are_judged_at_the_same_step_at_their_best_and_at_the_end() -> None:
    first = [evaluation(0, 0.1), evaluation(10, 0.6), evaluation(20, 0.55)]
    second = [evaluation(0, 0.15), evaluation(10, 0.3), evaluation(30, 0.9, "other")]
    rows = compare([facts("a", 20, *first), facts("b", 30, *second)]).evaluations
    shown = {
        (row.set, row.when): [(point.run, point.step, point.value, point.verdict) for point in row.points]
        for row in rows
    }
    assert shown == {
        ("aime avg@4", "at the same step"): [("a", 10, 0.6, None), ("b", 10, 0.3, "lower")],
        ("aime avg@4", "best"): [("a", 10, 0.6, None), ("b", 10, 0.3, "lower")],
        ("aime avg@4", "last"): [("a", 20, 0.55, None), ("b", 10, 0.3, "lower")],
        ("other avg@4", "best"): [("b", 30, 0.9, None)],
        ("other avg@4", "last"): [("b", 30, 0.9, None)],
    }


def test_intervals_that_overlap_are_noise() -> None:
    first = Point(1, 0.5, 0.4, 0.6)
    assert judge(first, Point(1, 0.65, 0.6, 0.7)) == "within noise"
    assert judge(first, Point(1, 0.66, 0.61, 0.7)) == "higher"
    assert judge(first, Point(1, 0.3, 0.2, 0.39)) == "lower"


SIDES = st.lists(st.floats(0, 1), min_size=3, max_size=3).map(sorted).map(lambda one: Point(1, one[1], one[0], one[2]))


@given(SIDES, SIDES)
def test_a_verdict_turns_round_with_its_sides(first: Point, other: Point) -> None:
    turned = {"higher": "lower", "lower": "higher", "within noise": "within noise"}
    assert judge(other, first) == turned[judge(first, other)]
    assert judge(first, first) == "within noise"


def test_what_differs_in_the_specs_is_told_by_field() -> None:
    first = {"name": "a", "algorithm": {"preset": "dapo", "clip": 0.2}, "data": {"sources": {}}, "seed": 1}
    second = {"name": "b", "algorithm": {"preset": "grpo", "clip": 0.2}, "data": {"sources": {"x": {"path": "p"}}}}
    found = [(one.field, one.values) for one in spec_differences([first, second | {"seed": 1}])]
    assert found == [("algorithm.preset", ["dapo", "grpo"]), ("data.sources", [{}, None]),
                     ("data.sources.x.path", [None, "p"])]  # fmt: skip
    assert list(spec_differences([first, first | {"name": "c"}])) == []
