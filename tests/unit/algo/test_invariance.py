"""What a group's advantages do not depend on: the level of its rewards and, with the deviation, their scale."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dapo.algo.advantages import group_advantages
from dapo.spec import AlgorithmSpec

eighths = st.integers(-80, 80).map(lambda count: count / 8)
"""Sums and differences of these are exact, so that rounding of the rewards themselves is no part of the question."""
groups = st.lists(eighths, min_size=2, max_size=16)
factors = st.sampled_from([0.01, 0.3, 0.5, 2.0, 7.0, 1000.0])
specs = st.builds(
    AlgorithmSpec,
    advantage_std=st.booleans(),
    advantage_std_ddof=st.sampled_from([0, 1]),
    advantage_epsilon=st.sampled_from([0.0, 1e-6, 1e-4]),
)


def close(values: list[float]) -> Any:
    return pytest.approx(values, rel=1e-9, abs=1e-12)


@given(groups, eighths, specs)
def test_invariance_of_advantages_under_a_shift_of_the_rewards(
    rewards: list[float], shift: float, spec: AlgorithmSpec
) -> None:
    shifted = group_advantages([reward + shift for reward in rewards], spec)
    assert shifted == close(group_advantages(rewards, spec))


@given(groups, factors, st.sampled_from([0, 1]))
def test_invariance_of_advantages_under_a_scale_with_std_and_without_epsilon(
    rewards: list[float], factor: float, ddof: int
) -> None:
    spec = AlgorithmSpec(advantage_std_ddof=ddof, advantage_epsilon=0.0)
    scaled = group_advantages([factor * reward for reward in rewards], spec)
    assert scaled == close(group_advantages(rewards, spec))


@given(groups, factors)
def test_advantages_grow_with_the_rewards_without_std(rewards: list[float], factor: float) -> None:
    spec = AlgorithmSpec(advantage_std=False)
    scaled = group_advantages([factor * reward for reward in rewards], spec)
    assert scaled == close([factor * advantage for advantage in group_advantages(rewards, spec)])


@given(groups)
def test_epsilon_tells_small_rewards_from_large_ones(rewards: list[float]) -> None:
    """Why the invariance under a scale asks for ε = 0: a deviation near ε shrinks the advantages."""
    assume(min(rewards) < max(rewards))
    spec = AlgorithmSpec(advantage_epsilon=1e-4)
    tiny = group_advantages([1e-4 * reward for reward in rewards], spec)
    assert max(map(abs, tiny)) < max(map(abs, group_advantages(rewards, spec)))


@given(groups, specs)
def test_negated_rewards_negate_the_advantages(rewards: list[float], spec: AlgorithmSpec) -> None:
    negated = group_advantages([-reward for reward in rewards], spec)
    assert negated == close([-advantage for advantage in group_advantages(rewards, spec)])
