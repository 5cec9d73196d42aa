"""What becomes of the number of generators in simulated runs."""

import math
from itertools import pairwise

import pytest

from dapo.algo.scaling import GENERATOR_SLACK, LEARNER_SLACK, Limits
from tests.support.orchestrator.fleet import Fleet, Load, Seen, simulate

WINDOW = 8


def changes(seen: list[Seen]) -> list[int]:
    return [after.count - before.count for before, after in pairwise(seen) if after.count != before.count]


def settled(seen: Seen) -> bool:
    fewest, most = (1 - LEARNER_SLACK) * seen.load.balance, (1 + GENERATOR_SLACK) * seen.load.balance
    return math.ceil(fewest) <= seen.count <= math.ceil(most)


def falling(step: int, *, begin: int = 10, end: int = 50) -> Load:
    """Keep rate 1 → 0.3 between two steps."""
    return Load(keep_rate=1 - 0.7 * min(1.0, max(0.0, (step - begin) / (end - begin))))


def doubling(step: int, *, begin: int = 10, end: int = 30) -> Load:
    return Load(length=1000.0 * 2 ** min(1.0, max(0.0, (step - begin) / (end - begin))))


@pytest.mark.parametrize("staleness", [1, 2, 4])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_share_follows_a_keep_rate_that_falls(staleness: int, noise: float):
    """n* goes from 2 to 6.7. In balance a window and the staleness after the fall, and it never turns back."""
    for seed in range(10):
        seen = simulate(falling, 100, 2, Fleet(staleness, noise, seed=seed), Limits(1, 16, WINDOW))
        assert all(change > 0 for change in changes(seen)), seed
        assert len(changes(seen)) <= 6
        assert all(map(settled, seen[50 + WINDOW + staleness :])), seed
        assert seen[0].share == pytest.approx(2 / 3)
        assert seen[-1].share == pytest.approx(0.87, abs=0.02)


def test_it_follows_a_jump_within_two_windows_for_each_doubling():
    seen = simulate(lambda step: Load(1.0 if step <= 20 else 0.3), 60, 2, Fleet(1, 0.05), Limits(1, 16, WINDOW))
    assert all(map(settled, seen[20 + 4 * WINDOW :]))
    assert len(changes(seen)) <= 3


def test_it_follows_lengths_that_double():
    """n* goes from 2 to 2.7, as half of what the learner does takes twice as long."""
    seen = simulate(doubling, 60, 2, Fleet(1, 0.05), Limits(1, 16, WINDOW))
    assert changes(seen) == [1]
    assert all(map(settled, seen[30 + WINDOW + 1 :]))


@pytest.mark.parametrize("steps", [1, 5, 20, 40])
def test_growth_pays_though_longer_responses_are_made_more_slowly(steps: int):
    """Four times as long, at half the speed: n* goes from 2 to 6.4, and 6 make no more tokens a second than 2 did."""

    def load(step: int) -> Load:
        grown = min(1.0, max(0.0, (step - 10) / steps))
        return Load(length=1000.0 * (1 + 3 * grown), slowing=0.5)

    for seed in range(10):
        seen = simulate(load, 120, 2, Fleet(1, 0.05, seed=seed), Limits(1, 16, WINDOW))
        assert all(change > 0 for change in changes(seen)), seed
        assert settled(seen[-1]), seed


def test_it_follows_a_keep_rate_that_rises_again():
    seen = simulate(lambda step: falling(100 - step), 130, 7, Fleet(1, 0.05), Limits(1, 16, WINDOW))
    assert all(change < 0 for change in changes(seen))
    assert seen[0].count == 7
    assert seen[-1].count <= 3
    assert settled(seen[-1])


def test_the_learner_is_idle_beside_a_fixed_fleet_and_not_beside_one_that_follows():
    def idle(limits: Limits | None) -> float:
        seen = simulate(falling, 100, 2, Fleet(), limits)
        found = [one.row["learner_idle"] or 0.0 for one in seen[60:]]
        return sum(found) / len(found)

    assert idle(None) == pytest.approx(0.7, abs=0.01), "2 of 6.7"
    assert idle(Limits(1, 16, WINDOW)) < LEARNER_SLACK


@pytest.mark.parametrize(("noise", "most"), [(0.1, 0), (0.15, 1)])
def test_noise_alone_makes_the_number_go_to_and_fro_never(noise: float, most: int):
    for seed in range(20):
        seen = simulate(lambda _: Load(), 300, 2, Fleet(2, noise, seed=seed), Limits(1, 16, WINDOW))
        assert len(changes(seen)) <= most, seed


def test_growth_that_makes_generation_no_faster_is_taken_back_once():
    """A batch takes 120 s however many generators there are; the learner would take 60."""
    seen = simulate(lambda _: Load(), 150, 2, Fleet(longest_s=120.0), Limits(1, 16, WINDOW))
    assert changes(seen)[1] < 0 < changes(seen)[0]
    assert seen[-1].count == 2
    assert len(changes(seen)) <= 4
    assert "hardly more tokens a second" in seen[-1].reason


def test_growth_that_has_not_paid_is_tried_again_for_more_work():
    def load(step: int) -> Load:
        return Load(1.0 if step <= 80 else 0.3)

    seen = simulate(load, 160, 2, Fleet(longest_s=120.0), Limits(1, 16, WINDOW))
    assert seen[79].count == 2
    assert seen[-1].count > 2, "2 would take 400 s, and more of them are faster down to 120"
