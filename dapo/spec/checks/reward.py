"""What no single field of `reward` can tell."""

from collections.abc import Iterator

from dapo.spec.problem import Problem
from dapo.spec.tree.run import RunTree


def reward_values(spec: RunTree) -> Iterator[Problem]:
    reward, longest = spec.reward, spec.sampling.max_response_tokens
    buffer = reward.overlong_buffer_tokens
    if spec.algorithm.soft_overlong_punishment and buffer >= longest:
        yield Problem(
            "reward.overlong_buffer_tokens",
            str(buffer),
            f"must be smaller than sampling.max_response_tokens = {longest}, or every response is punished for its "
            f"length. Set fewer than {longest} (the paper: a fifth, {longest // 5}), or switch "
            "algorithm.soft_overlong_punishment off",
        )
    if reward.correct <= reward.incorrect:
        yield Problem(
            "reward.correct",
            str(reward.correct),
            f"must be greater than reward.incorrect = {reward.incorrect}, or wrong answers are learned. Swap them",
        )
