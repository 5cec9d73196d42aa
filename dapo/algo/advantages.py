"""Group-relative advantages (GRPO, arXiv 2402.03300 section 4.1.2; DAPO, arXiv 2503.14476 eq. 9)."""

import math
from collections.abc import Sequence

from dapo.spec import AlgorithmSpec


def group_advantages(rewards: Sequence[float], spec: AlgorithmSpec) -> list[float]:
    """One advantage for each response of a group, the same for all of its tokens.

    (R − mean) / (std + ε) with `advantage_std`, else R − mean. Equal rewards give exact zeros, so neither rounding
    nor a zero deviation reaches the loss. Sums are exact (fsum): the order of the responses does not matter.

    Raises ValueError for a reward that is not finite.
    """
    for index, reward in enumerate(rewards):
        if not math.isfinite(reward):
            raise ValueError(f"reward {index} of the group is {reward}: rewards must be finite")
    if not rewards or min(rewards) == max(rewards):
        return [0.0] * len(rewards)
    mean = math.fsum(rewards) / len(rewards)
    centred = [reward - mean for reward in rewards]
    if not spec.advantage_std:
        return centred
    freedom = len(rewards) - spec.advantage_std_ddof
    scale = math.hypot(*centred) / math.sqrt(freedom) + spec.advantage_epsilon
    return [value / scale for value in centred] if scale > 0 else [0.0] * len(rewards)
