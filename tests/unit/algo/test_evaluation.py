"""avg@k, pass@k, maj@k and their intervals."""

from itertools import combinations
from statistics import fmean

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
    sizes,
    vote,
)


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
