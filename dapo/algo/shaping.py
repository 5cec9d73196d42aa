"""The shaped reward of one response."""

from typing import NamedTuple

from dapo.algo.overlong import overlong_penalty
from dapo.spec import RunSpec


class ShapedReward(NamedTuple):
    reward: float
    penalty: float
    """Part of `reward` that punishes length, in [−1, 0]."""


def shaped_reward(score: float, response_tokens: int, spec: RunSpec, *, truncated: bool) -> ShapedReward:
    """Reward of a score in [0, 1], with the soft overlong punishment where the algorithm has it on.

    `score` is the verdict, 1 or 0, or with `reward.base: score` the grader's. A truncated response is rewarded as a
    wrong one where `algorithm.truncated_reward` is incorrect; dynamic sampling still sees its verdict.
    """
    if truncated and spec.algorithm.truncated_reward == "incorrect":
        score = 0.0
    base = score * spec.reward.correct + (1 - score) * spec.reward.incorrect
    if not spec.algorithm.soft_overlong_punishment:
        return ShapedReward(base, 0.0)
    penalty = overlong_penalty(
        response_tokens,
        max_response_tokens=spec.sampling.max_response_tokens,
        buffer_tokens=spec.reward.overlong_buffer_tokens,
    )
    return ShapedReward(base + penalty, penalty)
