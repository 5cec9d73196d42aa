"""The shaped reward of one response."""

from typing import NamedTuple

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


def overlong_penalty(response_tokens: int, *, max_response_tokens: int, buffer_tokens: int) -> float:
    """Soft overlong punishment (DAPO, arXiv 2503.14476 eq. 13): in [−1, 0], to be added to the reward.

    0 up to L_max − L_cache tokens (EOS counted once), then falling linearly to −1 at L_max = `max_response_tokens`;
    L_cache = `buffer_tokens`, above 0. Longer responses stay at −1.
    """
    excess = response_tokens - (max_response_tokens - buffer_tokens)
    if excess <= 0:
        return 0.0
    return -min(excess / buffer_tokens, 1.0)
