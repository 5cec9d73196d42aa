"""Advantages and rewards against golden numbers of verl 0.9.1, and the pitfalls around them."""

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.algo.advantages import group_advantages
from dapo.algo.shaping import overlong_penalty, shaped_reward
from dapo.spec import AlgorithmSpec, RunSpec
from tests.support.paths import SHARED

ORACLE = SHARED / "oracles" / "verl_oracle.json"

rewards_of_a_group = st.lists(st.floats(-2, 2, width=32), min_size=1, max_size=32)


def make_spec(**sections: Any) -> RunSpec:
    return RunSpec.model_validate({"model": {"path": "m"}, "data": {"path": "d.jsonl"}, **sections})


@pytest.fixture(scope="module")
def oracle() -> dict[str, Any]:
    if not ORACLE.exists():
        pytest.skip("verl's golden numbers are not here")
    return json.loads(ORACLE.read_text())


@pytest.mark.parametrize(("golden", "std"), [("adv_grpo", True), ("adv_drgrpo", False)])
def test_advantages_equal_verls(oracle: dict[str, Any], golden: str, std: bool) -> None:
    spec = AlgorithmSpec(preset="verl-parity", advantage_std=std)
    size = oracle["G"]
    groups = [oracle["reward"][start : start + size] for start in range(0, oracle["B"], size)]
    computed = [advantage for group in groups for advantage in group_advantages(group, spec)]
    assert computed == pytest.approx(oracle[golden], rel=1e-12, abs=0)


def test_overlong_penalty_equals_verls(oracle: dict[str, Any]) -> None:
    golden = oracle["overlong"]
    assert golden["len_to_reward"]
    for tokens, reward in golden["len_to_reward"].items():
        penalty = overlong_penalty(int(tokens), max_response_tokens=golden["L"], buffer_tokens=golden["buffer"])
        assert 1.0 + penalty == pytest.approx(reward, abs=1e-7), tokens


def test_pitfall_04_std_ddof_and_epsilon_are_fixed() -> None:
    group = [1.0, 1.0, 1.0, -1.0]
    population = group_advantages(group, AlgorithmSpec(advantage_std_ddof=0, advantage_epsilon=0.0))
    sample = group_advantages(group, AlgorithmSpec(advantage_std_ddof=1, advantage_epsilon=0.0))
    assert population == pytest.approx([1 / math.sqrt(3)] * 3 + [-math.sqrt(3)])
    assert sample == pytest.approx([0.5] * 3 + [-1.5])
    assert AlgorithmSpec().advantage_std_ddof == 0
    assert AlgorithmSpec(preset="verl-parity").advantage_std_ddof == 1
    assert group_advantages([1.0, -1.0], AlgorithmSpec(advantage_epsilon=1.0)) == [0.5, -0.5]


@pytest.mark.parametrize("reward", [1.0, -1.0, 0.1, 1 / 3])
@pytest.mark.parametrize("size", [1, 3, 16])
@pytest.mark.parametrize("std", [True, False])
def test_pitfall_05_equal_rewards_give_exact_zeros(reward: float, size: int, std: bool) -> None:
    spec = AlgorithmSpec(advantage_std=std, advantage_std_ddof=1, advantage_epsilon=0.0)
    assert group_advantages([reward] * size, spec) == [0.0] * size


@pytest.mark.parametrize(
    "group",
    [
        [0.1 + 0.2, 0.3, 0.3],
        [1.0 - 0.9, 0.1],
        [0.0, 0.3 - 0.1 - 0.2],
        [1 / 3, 0.3333333432674408],  # In float32, in which rewards travel.
        [-1000.1, -1000.0999755859375],
    ],
)
@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
@pytest.mark.parametrize("std", [True, False])
def test_rewards_equal_up_to_rounding_give_exact_zeros(group: list[float], epsilon: float, std: bool) -> None:
    assert len(set(group)) > 1
    spec = AlgorithmSpec(advantage_std=std, advantage_epsilon=epsilon)
    assert group_advantages(group, spec) == [0.0] * len(group)


def test_small_differences_beyond_rounding_count() -> None:
    spec = AlgorithmSpec(advantage_epsilon=0.0)
    assert group_advantages([0.5, 0.50001], spec) == pytest.approx([-1, 1])
    assert group_advantages([0.0, 1e-5], spec) == pytest.approx([-1, 1])


@given(rewards_of_a_group, st.sampled_from([0, 1]), st.sampled_from([0.0, 1e-6]))
def test_advantages_are_finite_centred_and_bounded(rewards: list[float], ddof: int, epsilon: float) -> None:
    spec = AlgorithmSpec(advantage_std_ddof=ddof, advantage_epsilon=epsilon)
    advantages = group_advantages(rewards, spec)
    assert len(advantages) == len(rewards)
    # No value lies further than sqrt(n − 1) population deviations from the mean.
    assert all(abs(advantage) <= math.sqrt(len(rewards)) + 1e-6 for advantage in advantages)
    assert math.fsum(advantages) == pytest.approx(0, abs=1e-6)


@given(rewards_of_a_group, st.randoms(use_true_random=False))
def test_invariance_of_advantages_under_the_order_of_responses(rewards: list[float], random: Any) -> None:
    order = list(range(len(rewards)))
    random.shuffle(order)
    advantages = group_advantages(rewards, AlgorithmSpec())
    moved = group_advantages([rewards[index] for index in order], AlgorithmSpec())
    assert moved == pytest.approx([advantages[index] for index in order], rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rewards_must_be_finite(bad: float) -> None:
    with pytest.raises(ValueError, match="reward 1 of the group"):
        group_advantages([1.0, bad], AlgorithmSpec())


def test_overlong_penalty_of_the_paper() -> None:
    def penalty(tokens: int) -> float:
        return overlong_penalty(tokens, max_response_tokens=20480, buffer_tokens=4096)

    assert penalty(0) == penalty(16384) == 0
    assert penalty(16384 + 1024) == -0.25
    assert penalty(20480) == penalty(20481) == -1


@given(st.integers(0, 400), st.integers(1, 100))
def test_overlong_penalty_is_bounded_and_falls(tokens: int, buffer: int) -> None:
    here = overlong_penalty(tokens, max_response_tokens=200, buffer_tokens=buffer)
    after = overlong_penalty(tokens + 1, max_response_tokens=200, buffer_tokens=buffer)
    assert -1 <= after <= here <= 0


def test_pitfall_14_eos_counts_once_towards_the_length() -> None:
    """`response_tokens` has EOS in it: a response whose 17th token is EOS is one token into a buffer from 16 to 24."""
    spec = make_spec(sampling={"max_response_tokens": 24}, reward={"overlong_buffer_tokens": 8})
    words, eos = 16, 1
    assert shaped_reward(True, words, spec, truncated=False) == (1.0, 0.0)
    assert shaped_reward(True, words + eos, spec, truncated=False) == (1.0 - 1 / 8, -1 / 8)


def test_shaped_reward_follows_the_spec() -> None:
    sections: dict[str, Any] = {
        "sampling": {"max_response_tokens": 20},
        "reward": {"overlong_buffer_tokens": 10, "correct": 2.0, "incorrect": 0.0},
    }
    spec = make_spec(**sections)
    assert shaped_reward(True, 15, spec, truncated=False) == (1.5, -0.5)
    assert shaped_reward(False, 20, spec, truncated=False) == (-1.0, -1.0)
    unpunished = make_spec(algorithm={"soft_overlong_punishment": False}, **sections)
    assert shaped_reward(False, 20, unpunished, truncated=False) == (0.0, 0.0)


@given(st.booleans(), st.integers(1, 20), st.booleans(), st.booleans())
def test_a_truncated_response_is_rewarded_as_the_spec_says(correct: bool, tokens: int, cut: bool, soft: bool) -> None:
    def reward(verdict: bool, truncated: bool, mode: str) -> tuple[float, float]:
        spec = make_spec(
            sampling={"max_response_tokens": 20},
            reward={"overlong_buffer_tokens": 10, "correct": 2.0, "incorrect": -0.5},
            algorithm={"truncated_reward": mode, "soft_overlong_punishment": soft},
        )
        return shaped_reward(verdict, tokens, spec, truncated=truncated)

    assert reward(correct, cut, "graded") == reward(correct, False, "graded")
    assert reward(correct, cut, "incorrect") == reward(correct and not cut, False, "graded")
