"""What no single field of `reward` can tell: its values, names that nothing answers to, weighted sums in a circle."""

import re
from collections.abc import Iterator

from dapo.spec.problem import Problem
from dapo.spec.tree.graders import RegexGrader, UnknownGrader, WeightedGrader, find_grader
from dapo.spec.tree.run import RunTree
from dapo.spec.wording import shown


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


def graders(spec: RunTree) -> Iterator[Problem]:
    named = spec.reward.graders
    for name, field in spec.referenced_graders.items():
        try:
            find_grader(name, named)
        except UnknownGrader as error:
            yield Problem(field, shown(name), str(error))
    for name, grader in named.items():
        field = f"reward.graders.{name}"
        if isinstance(grader, RegexGrader):
            try:
                re.compile(grader.pattern)
            except (re.error, OverflowError, RecursionError) as error:
                yield Problem(f"{field}.pattern", shown(grader.pattern), f"is no regular expression: {error}. Mend it")
        elif isinstance(grader, WeightedGrader):
            yield from _weighted(field, grader, spec)


def _weighted(field: str, grader: WeightedGrader, spec: RunTree) -> Iterator[Problem]:
    for part in grader.parts:
        if isinstance(spec.reward.graders.get(part), WeightedGrader):
            yield Problem(f"{field}.parts", part, "is a weighted sum itself. Name its parts here instead")
