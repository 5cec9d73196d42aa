"""Dynamic sampling, the keep rate, prompts that rest and the data frontier."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.algo.dynamic_sampling import (
    _LOWEST_UPPER_BOUND,
    KeepRate,
    Resting,
    Uniform,
    UniformStreak,
    is_informative,
    uniform_kind,
)
from dapo.algo.frontier import DataPart, Frontier, FrontierState
from dapo.algo.pacing import Pacing
from dapo.algo.shaping import shaped_reward
from tests.unit.algo.test_advantages import make_spec


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


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_a_group_is_of_a_kind_exactly_when_it_is_not_informative(correct: list[bool]) -> None:
    kind = uniform_kind(correct)
    assert (kind is None) == is_informative(correct)
    assert kind is None or (kind is Uniform.CORRECT) == correct[0]


def test_a_group_without_a_verdict_is_of_no_kind() -> None:
    with pytest.raises(ValueError, match="without a verdict"):
        uniform_kind([])


KINDS = st.sampled_from([None, Uniform.CORRECT, Uniform.WRONG])


@given(st.lists(KINDS, max_size=60), st.integers(1, 4), st.none() | st.integers(1, 6), st.integers(0, 60))
def test_a_streak_counts_from_the_last_kept_group_whoever_counts(
    kinds: list[Uniform | None], size: int, limit: int | None, handed_over: int
) -> None:
    streak = UniformStreak(size, limit)
    for at, kind in enumerate(kinds):
        if at == handed_over:
            counts = {str(one): streak.count(one) for one in Uniform}
            streak = UniformStreak(size, limit)
            streak.take_up(counts)
        streak.observe(kind)
        recent = kinds[: at + 1]
        after = recent[len(recent) - recent[::-1].index(None) :] if None in recent else recent
        assert len(streak) == len(after)
        assert [streak.count(one) for one in Uniform] == [after.count(one) for one in Uniform]
        assert streak.is_over == (limit is not None and len(after) >= limit * size)
        assert not (streak.is_long and len(after) < size)
        if len(after) >= 2 * size:
            assert streak.is_long == (limit != 1)


ROWS = ["d.jsonl:1", "d.jsonl:2"]
RESULTS = st.lists(st.tuples(st.sampled_from(ROWS), st.integers(0, 2), KINDS), max_size=40)
"""Row, epochs since the last group, and what became of its group."""


@given(RESULTS)
def test_without_the_rule_nothing_rests_and_nothing_is_remembered(
    results: list[tuple[str, int, Uniform | None]],
) -> None:
    resting = Resting(None, 1)
    for row, epoch, kind in results:
        assert resting.observe(row, epoch, kind) is None
        assert not any(resting.rests(row, later) for later in range(5))


@given(RESULTS, st.integers(1, 3), st.integers(1, 3), st.integers(0, 40))
def test_a_row_rests_after_so_many_of_a_kind_in_a_row_whoever_counts(
    results: list[tuple[str, int, Uniform | None]], after: int, epochs: int, handed_over: int
) -> None:
    resting, stored, epoch = Resting(after, epochs), dict[str, str](), 0
    seen: dict[str, list[tuple[int, Uniform | None]]] = {row: [] for row in ROWS}
    for at, (row, passed, kind) in enumerate(results):
        if at == handed_over:
            resting = Resting(after, epochs)
            resting.take_up(stored)
        epoch += passed
        remembered = resting.observe(row, epoch, kind)
        assert remembered is not None
        stored[row] = remembered
        if not remembered:
            del stored[row]
        seen[row].append((epoch, kind))
        for one in ROWS:
            for later in range(epoch + 1, epoch + 6):
                assert resting.rests(one, later) == should_rest(seen[one], later, after, epochs)


def should_rest(seen: list[tuple[int, Uniform | None]], epoch: int, after: int, epochs: int) -> bool:
    """From the definition: the newest groups of the row, as many as are of one kind, and the epoch of the last."""
    if not seen or seen[-1][1] is None:
        return False
    last_epoch, kind = seen[-1]
    streak = 0
    while streak < len(seen) and seen[-1 - streak][1] == kind:
        streak += 1
    return streak >= after and epoch <= last_epoch + epochs


def test_an_older_group_that_is_settled_last_shortens_no_rest() -> None:
    resting = Resting(2, 2)
    for epoch in (0, 2, 1):
        resting.observe("r", epoch, Uniform.WRONG)
    assert [resting.rests("r", epoch) for epoch in (3, 4, 5)] == [True, True, False]


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
    assert max(rate.mean, _LOWEST_UPPER_BOUND) - 1e-12 <= rate.upper(confidence) <= 1
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
    assert rate.upper(0.9) == _LOWEST_UPPER_BOUND
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
    frontier = Frontier([DataPart(rows)], seed=seed, shuffle=shuffle)
    for epoch in range(3):
        items = [frontier.next() for _ in range(rows)]
        assert [(item.epoch, item.cursor) for item in items] == [(epoch, cursor) for cursor in range(rows)]
        assert sorted(item.row for item in items) == list(range(rows))
        if not shuffle:
            assert [item.row for item in items] == list(range(rows))


parts = st.lists(st.builds(DataPart, st.integers(1, 12), st.floats(0.05, 4)), min_size=1, max_size=4)


@given(parts, st.integers(0, 2**31), st.booleans(), st.integers(1, 6))
def test_an_epoch_holds_the_promised_number_of_each_part(
    parts: list[DataPart], seed: int, shuffle: bool, epochs: int
) -> None:
    frontier = Frontier(parts, seed=seed, shuffle=shuffle)
    in_all: Counter[int] = Counter()
    for epoch in range(epochs):
        items = [frontier.next() for _ in range(len(frontier))]
        assert {item.epoch for item in items} == {epoch}
        in_epoch = Counter(item.row for item in items)
        in_all += in_epoch
        first = 0
        for part in parts:
            rows = range(first, first + part.rows)
            assert abs(part.share - part.rows * part.weight) <= 0.5 or part.share == 1
            assert sum(in_epoch[row] for row in rows) == part.share
            for counts, items_of_part in ((in_epoch, part.share), (in_all, (epoch + 1) * part.share)):
                fewest = items_of_part // part.rows
                assert {counts[row] for row in rows} <= {fewest, fewest + bool(items_of_part % part.rows)}
            first += part.rows
        assert set(in_epoch) <= set(range(first))


@given(parts, st.integers(0, 99), st.sets(st.integers(0, 80)))
def test_frontier_goes_on_from_any_state(parts: list[DataPart], seed: int, restored_at: set[int]) -> None:
    straight = Frontier(parts, seed=seed, shuffle=True)
    restarted = Frontier(parts, seed=seed, shuffle=True)
    for position in range(80):
        if position in restored_at:
            restarted = Frontier(parts, seed=seed, shuffle=True, state=restarted.state())
        assert straight.next() == restarted.next()


def test_without_shuffling_parts_follow_each_other_and_halves_take_turns() -> None:
    frontier = Frontier([DataPart(4, 0.5), DataPart(2, 2)], seed=0, shuffle=False)
    epochs = [[frontier.next().row for _ in range(len(frontier))] for _ in range(3)]
    assert epochs == [[0, 1, 4, 5, 4, 5], [2, 3, 4, 5, 4, 5], [0, 1, 4, 5, 4, 5]]


def test_frontier_order_depends_on_seed_and_epoch_and_is_fixed_for_good() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        frontier = Frontier([DataPart(10)], seed=seed, shuffle=True, state=FrontierState(epoch, 0))
        return [frontier.next().row for _ in range(10)]

    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert order(0, 0) == [5, 7, 9, 8, 2, 0, 6, 3, 1, 4]


@given(rows=st.integers(1, 7), size=st.integers(1, 9), staleness=st.integers(0, 2), seed=st.integers(0, 99))
def test_batches_are_full_whatever_the_size_of_an_epoch(rows: int, size: int, staleness: int, seed: int) -> None:
    """Every row once an epoch, also where an epoch ends within a batch or a batch holds several."""
    frontier = Frontier([DataPart(rows)], seed=seed, shuffle=True)
    steps = 6
    pacing = Pacing(prompts_per_step=size, max_staleness=staleness, steps=steps, keep_rate=KeepRate())
    row_of: dict[str, int] = {}
    trained: list[str] = []
    while not pacing.finished:
        new = [f"g{len(row_of) + number:04d}" for number in range(pacing.admissible())]
        assert new or pacing.ready, "nothing to do"
        for group_id in new:
            pacing.issued(group_id, len(row_of))
            row_of[group_id] = frontier.next().row
        for group_id in reversed(new):
            pacing.kept(group_id)
        while (cut := pacing.cut()) is not None:
            trained += cut.groups
            pacing.published(cut.batch + 1)
    assert sorted(row_of) == sorted(trained)
    assert len(trained) == steps * size
    asked = Counter(row_of.values())
    assert max(asked.values()) - min(asked[row] for row in range(rows)) <= 1


@pytest.mark.parametrize("state", [FrontierState(0, 5), FrontierState(-1, 0), FrontierState(0, -1)])
def test_frontier_refuses_a_state_outside_the_dataset(state: FrontierState) -> None:
    with pytest.raises(ValueError, match="outside an epoch of 5 prompts"):
        Frontier([DataPart(5)], seed=0, shuffle=True, state=state)


@pytest.mark.parametrize("parts", [[], [DataPart(0)], [DataPart(3), DataPart(0)]])
def test_frontier_refuses_an_empty_dataset(parts: list[DataPart]) -> None:
    with pytest.raises(ValueError, match=r"data\.path"):
        Frontier(parts, seed=0, shuffle=True)
