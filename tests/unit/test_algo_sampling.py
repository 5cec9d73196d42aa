"""Dynamic sampling, the keep rate and the data frontier."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.algo.dynamic_sampling import LOWEST_UPPER_BOUND, KeepRate, is_informative
from dapo.algo.frontier import Frontier, FrontierState
from dapo.algo.shaping import shaped_reward
from tests.unit.test_algo_advantages import make_spec


def test_pitfall_01_filter_reads_raw_accuracy_not_the_shaped_reward() -> None:
    """All correct but of different lengths: shaped rewards differ, the group is still not informative."""
    spec = make_spec(sampling={"max_response_tokens": 20}, reward={"overlong_buffer_tokens": 10})
    rewards = {shaped_reward(True, tokens, spec, truncated=False).reward for tokens in (5, 12, 18, 20)}
    assert len(rewards) == 4
    assert not is_informative([True] * 4)


def test_pitfall_01_the_filter_ignores_what_a_truncated_response_is_rewarded_with() -> None:
    """All correct and one of them cut: it is rewarded as wrong, the group is still not informative."""
    spec = make_spec(algorithm={"truncated_reward": "incorrect", "soft_overlong_punishment": False})
    assert [shaped_reward(True, 5, spec, truncated=cut).reward for cut in (False, True)] == [1, -1]
    assert not is_informative([True, True])


@given(st.integers(1, 4096), st.data())
def test_pitfall_02_accuracies_are_compared_exactly(size: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, size))
    verdicts = [True] * correct + [False] * (size - correct)
    assert is_informative(verdicts) == (0 < correct < size)


def test_pitfall_03_a_length_penalty_does_not_make_an_all_wrong_group_informative() -> None:
    spec = make_spec(sampling={"max_response_tokens": 20}, reward={"overlong_buffer_tokens": 10})
    rewards = [shaped_reward(False, tokens, spec, truncated=False).reward for tokens in (5, 20)]
    assert rewards[0] > rewards[1]
    assert not is_informative([False, False])


def test_keep_rate_starts_at_one_and_stays_while_all_are_kept() -> None:
    rate = KeepRate()
    assert rate.upper(0.9) == rate.mean == 1.0
    for _ in range(2000):
        rate.observe(True)
        assert rate.upper(0.9) == 1.0
    assert rate.mean == 1.0


@given(st.lists(st.booleans(), max_size=80), st.sampled_from([0.5, 0.9, 0.999]))
def test_keep_rate_bounds_its_window_from_above(kept: list[bool], confidence: float) -> None:
    rate = KeepRate(window=20, prior=4)
    for one in kept:
        rate.observe(one)
    real = kept[-20:]
    assert rate.mean == (pytest.approx(sum(real) / len(real)) if real else 1.0)
    assert max(rate.mean, LOWEST_UPPER_BOUND) - 1e-12 <= rate.upper(confidence) <= 1
    assert rate.upper(confidence) <= rate.upper(0.9999) + 1e-12


def test_keep_rate_bound_covers_the_true_rate() -> None:
    """At 90 % confidence the bound lies below the truth in about a tenth of the windows, never in a quarter."""
    rng = random.Random(1)
    below = 0
    for _ in range(400):
        rate = KeepRate(window=128, prior=0)
        for _ in range(128):
            rate.observe(rng.random() < 0.3)
        below += rate.upper(0.9) < 0.3
    assert 0.03 < below / 400 < 0.25


def test_pitfall_07_a_keep_rate_of_zero_degrades_with_an_alert() -> None:
    rate = KeepRate(window=512)
    assert not rate.is_low(0.05)
    for _ in range(31):
        rate.observe(False)
    assert not rate.is_low(0.05), "too few groups to judge"
    rate.observe(False)
    assert rate.is_low(0.05)
    for _ in range(5000):
        rate.observe(False)
    assert rate.upper(0.9) == LOWEST_UPPER_BOUND
    for _ in range(512):
        rate.observe(True)
    assert not rate.is_low(0.05)
    assert rate.upper(0.9) == 1.0


@pytest.mark.parametrize("confidence", [0.4, 1.0])
def test_keep_rate_refuses_a_confidence_that_bounds_nothing(confidence: float) -> None:
    with pytest.raises(ValueError, match="confidence"):
        KeepRate().upper(confidence)


@given(st.integers(1, 60), st.integers(0, 2**31), st.booleans())
def test_frontier_gives_every_row_once_an_epoch(rows: int, seed: int, shuffle: bool) -> None:
    frontier = Frontier(rows, seed=seed, shuffle=shuffle)
    for epoch in range(3):
        items = [frontier.next() for _ in range(rows)]
        assert [(item.epoch, item.cursor) for item in items] == [(epoch, cursor) for cursor in range(rows)]
        assert sorted(item.row for item in items) == list(range(rows))
        if not shuffle:
            assert [item.row for item in items] == list(range(rows))


@given(st.integers(1, 30), st.integers(0, 99), st.sets(st.integers(0, 80)))
def test_frontier_goes_on_from_any_state(rows: int, seed: int, restored_at: set[int]) -> None:
    straight = Frontier(rows, seed=seed, shuffle=True)
    restarted = Frontier(rows, seed=seed, shuffle=True)
    for position in range(80):
        if position in restored_at:
            restarted = Frontier(rows, seed=seed, shuffle=True, state=restarted.state())
        assert straight.next() == restarted.next()


def test_frontier_order_depends_on_seed_and_epoch_and_is_fixed_for_good() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        frontier = Frontier(10, seed=seed, shuffle=True, state=FrontierState(epoch, 0))
        return [frontier.next().row for _ in range(10)]

    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert order(0, 0) == [5, 7, 9, 8, 2, 0, 6, 3, 1, 4]


@pytest.mark.parametrize("state", [FrontierState(0, 5), FrontierState(-1, 0), FrontierState(0, -1)])
def test_frontier_refuses_a_state_outside_the_dataset(state: FrontierState) -> None:
    with pytest.raises(ValueError, match="outside a dataset of 5 rows"):
        Frontier(5, seed=0, shuffle=True, state=state)


def test_frontier_refuses_an_empty_dataset() -> None:
    with pytest.raises(ValueError, match=r"data\.path"):
        Frontier(0, seed=0, shuffle=True)
