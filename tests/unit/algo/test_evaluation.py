"""avg@k, pass@k, maj@k and their intervals, and when evaluations say that a run has come as far as it should."""

from itertools import combinations
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.algo.evaluation import (
    Judged,
    average_correct,
    difference,
    estimate,
    majority_at_k,
    measure,
    pass_at_k,
    reason_to_stop,
    sizes,
    vote,
)
from dapo.spec.tree.evaluation import EarlyStoppingSpec


def problem(*answers: str, gold: str = "1") -> list[Judged]:
    return [Judged(answer == gold, answer, tokens=10, truncated=False) for answer in answers]


def test_pitfall_18_avg_at_k_is_the_mean_over_k_with_its_interval() -> None:
    """Not the best of k, nor one draw: 32 responses a problem, 30 problems, and how far 30 problems reach."""
    problems = [problem(*["1"] * right, *["2"] * (32 - right)) for right in range(30)]
    found = measure(problems)
    assert found.samples == 32
    assert found.average.value == pytest.approx(fmean(right / 32 for right in range(30)))
    assert found.pass_at[32].value == pytest.approx(29 / 30)
    assert found.average.low < found.average.value < found.average.high
    deviation = np.std([right / 32 for right in range(30)]) / 30**0.5
    assert found.average.high - found.average.low == pytest.approx(2 * 1.96 * deviation, rel=0.05)


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    held = 0
    for _ in range(300):
        rates = generator.beta(2, 3, size=60)
        found = estimate((generator.binomial(8, rates) / 8).tolist())
        held += found.low <= 0.4 <= found.high
    assert 0.9 <= held / 300 <= 0.99


@given(n=st.integers(1, 9), data=st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_correct_response(n: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, n))
    k = data.draw(st.integers(1, n))
    flags = [index < correct for index in range(n)]
    subsets = list(combinations(flags, k))
    assert pass_at_k(n, correct, k) == pytest.approx(fmean(any(subset) for subset in subsets))


@given(st.lists(st.sampled_from(["1", "2", "3", ""]), min_size=1, max_size=8))
def test_measures_are_shares_and_agree_at_one(answers: list[str]) -> None:
    one = problem(*answers)
    for k in sizes(len(one)):
        assert 0 <= majority_at_k(one, k) <= 1
        assert pass_at_k(len(one), sum(r.correct for r in one), k) >= average_correct(one) - 1e-12
    assert pass_at_k(len(one), sum(r.correct for r in one), 1) == pytest.approx(average_correct(one))


def test_majority_over_subsets_comes_near_the_mean_over_all_of_them() -> None:
    one = problem("1", "1", "1", "2", "2", "3", "")
    wanted = fmean(vote(subset) for subset in combinations(one, 3))
    assert majority_at_k(one, 3) == pytest.approx(wanted, abs=0.08)
    assert majority_at_k(one, 3) == majority_at_k(one, 3)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (["1", "1", "2"], 1.0),
        (["1", "2", "2"], 0.0),
        (["1", "2"], 0.5),
        (["1", "2", "3"], 1 / 3),
        (["", "", "1"], 1.0),
        (["", ""], 0.0),
    ],
)
def test_the_most_frequent_answer_wins_and_ties_are_shared(answers: list[str], expected: float) -> None:
    assert vote(problem(*answers)) == pytest.approx(expected)


def test_sizes_are_powers_of_two_and_all() -> None:
    assert sizes(1) == [1]
    assert sizes(4) == [1, 2, 4]
    assert sizes(6) == [1, 2, 4, 6]


def test_a_difference_is_drawn_pairwise() -> None:
    """Problems differ much more than the two models do; pairs show what two intervals would hide."""
    before = [index / 100 for index in range(80)]
    found = difference(before, [value + 0.05 for value in before])
    assert found.low == pytest.approx(0.05)
    assert found.high == pytest.approx(0.05)
    with pytest.raises(ValueError, match="zip"):
        difference(before, before[1:])


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="equally many"):
        measure([])
    with pytest.raises(ValueError, match=r"\[1, 2\]"):
        measure([problem("1"), problem("1", "2")])
    with pytest.raises(ValueError, match="1 ≤ k ≤ n"):
        pass_at_k(3, 1, 4)
    with pytest.raises(ValueError, match="1 ≤ k ≤ n"):
        majority_at_k(problem("1"), 2)


AVERAGES = st.lists(st.none() | st.integers(0, 20).map(lambda twentieths: twentieths / 20), max_size=20)


def rows_of(averages: list[float | None], name: str = "exam") -> list[dict[str, Any]]:
    return [
        {"set": name, "step": 10 * at, "samples": 4, "avg_at_k": None if value is None else {"value": value}}
        for at, value in enumerate(averages)
    ]


@given(AVERAGES)
def test_without_a_set_a_run_goes_on(averages: list[float | None]) -> None:
    assert reason_to_stop(EarlyStoppingSpec(), rows_of(averages)) is None


@given(AVERAGES, st.integers(1, 20), st.none() | st.integers(1, 4), st.integers(0, 3))
def test_a_run_ends_at_the_first_evaluation_that_says_so(
    averages: list[float | None], threshold: int, patience: int | None, min_delta: int
) -> None:
    rule = EarlyStoppingSpec(set="exam", threshold=threshold / 20, patience=patience, min_delta=min_delta / 20)
    rows = rows_of(averages)
    values = [value for value in averages if value is not None]

    def says_so(count: int) -> bool:
        """After so many evaluations, told from their definition: the threshold is reached, or the last `patience` were
        all no improvement on what had come before them."""
        found = values[:count]
        improvements, best = [], None
        for at, value in enumerate(found):
            if best is None or value > best + rule.min_delta:
                improvements.append(at)
                best = value
        stands = patience is not None and bool(improvements) and count - 1 - improvements[-1] >= patience
        return bool(found) and (found[-1] >= threshold / 20 or stands)

    reason = reason_to_stop(rule, rows)
    assert (reason is not None) == any(says_so(count) for count in range(1, len(values) + 1))
    # Other sets, and evaluations that come later, change nothing.
    assert reason_to_stop(rule, [*rows_of([1.0, 0.0, 0.0, 0.0, 0.0], "other"), *rows]) == reason
    if reason is not None:
        assert reason_to_stop(rule, [*rows, *rows_of([1.0])]) == reason


def test_the_reason_names_what_it_rests_on() -> None:
    rule = EarlyStoppingSpec(set="exam", threshold=0.9, patience=2)
    assert reason_to_stop(rule, rows_of([0.25, 0.95])) == (
        "exam has reached avg@4 = 0.9500 at step 10 (evaluation.early_stopping.threshold = 0.9)"
    )
    assert reason_to_stop(rule, rows_of([0.25, 0.5, None, 0.5, 0.25])) == (
        "exam has not risen above avg@4 = 0.5000 of step 10 up to step 40 (evaluation.early_stopping.patience = 2)"
    )
