"""Group-relative advantages (GRPO, arXiv 2402.03300 section 4.1.2; DAPO, arXiv 2503.14476 eq. 9)."""

import math
from collections.abc import Sequence

from dapo.spec import AlgorithmSpec

ROUNDING = 2.0**-20
"""Rewards travel in float32 and are sums of parts of about 1. Two that are closer than this share of the largest, or of
1 if that is more, differ by rounding alone."""


def group_advantages(rewards: Sequence[float], spec: AlgorithmSpec) -> list[float]:
    """One advantage for each response of a group, the same for all of its tokens.

    (R − mean) / (std + ε) with `advantage_std`, else R − mean. Rewards that are equal up to rounding give exact zeros,
    so neither rounding nor a zero deviation reaches the loss. Sums are exact (fsum): the order of the responses does
    not matter.

    Raises ValueError for a reward that is not finite.
    """
    for index, reward in enumerate(rewards):
        if not math.isfinite(reward):
            raise ValueError(f"reward {index} of the group is {reward}: rewards must be finite")
    if not rewards or max(rewards) - min(rewards) <= ROUNDING * max(1.0, *map(abs, rewards)):
        return [0.0] * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    centred = [reward - mean for reward in rewards]
    if not spec.advantage_std:
        return centred
    freedom = len(rewards) - spec.advantage_std_ddof
    scale = math.hypot(*centred) / math.sqrt(freedom) + spec.advantage_epsilon
    return [value / scale for value in centred]
