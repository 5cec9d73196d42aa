"""The shaped reward of one response."""

from typing import NamedTuple

from dapo.algo.overlong import overlong_penalty
from dapo.spec import RunSpec


class ShapedReward(NamedTuple):
    reward: float
    penalty: float
    """Part of `reward` that punishes length, in [−1, 0]."""


def shaped_reward(correct: bool, response_tokens: int, spec: RunSpec, *, truncated: bool) -> ShapedReward:
    """Reward of a verdict, with the soft overlong punishment where the algorithm has it on.

    `truncated` counts as wrong where `algorithm.truncated_reward` is incorrect. Only the reward does: dynamic sampling
    goes on reading the verdict itself.
    """
    rewarded = correct and not (truncated and spec.algorithm.truncated_reward == "incorrect")
    base = spec.reward.correct if rewarded else spec.reward.incorrect
    if not spec.algorithm.soft_overlong_punishment:
        return ShapedReward(base, 0.0)
    penalty = overlong_penalty(
        response_tokens,
        max_response_tokens=spec.sampling.max_response_tokens,
        buffer_tokens=spec.reward.overlong_buffer_tokens,
    )
    return ShapedReward(base + penalty, penalty)
