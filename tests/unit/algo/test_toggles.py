"""Every subset of the techniques outside of the learner: from verdicts and lengths to the record of a train batch."""

from collections.abc import Iterator
from itertools import combinations
from math import fsum, isfinite
from statistics import pstdev
from typing import Any, NamedTuple

import pytest

from dapo.algo.batches import ScoredGroup, build_batch
from dapo.algo.dynamic_sampling import is_informative
from dapo.algo.shaping import shaped_reward
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from tests.unit.algo.test_advantages import make_spec

Subset = frozenset[str]

TOGGLES: dict[str, dict[str, Any]] = {
    "std": {"advantage_std": True},
    "dynamic_sampling": {"dynamic_sampling": True},
    "soft_overlong": {"soft_overlong_punishment": True},
    "overlong_filtering": {"overlong_filtering": True},
    "truncated_is_wrong": {"truncated_reward": "incorrect"},
}
OFF = {"advantage_std": False, "dynamic_sampling": False, "soft_overlong_punishment": False}
SUBSETS = [frozenset(names) for size in range(len(TOGGLES) + 1) for names in combinations(TOGGLES, size)]
LIMIT, BUFFER = 20, 8
GROUP_SIZE = 4


class Response(NamedTuple):
    correct: bool
    tokens: int
    truncated: bool = False


GROUPS = {
    "mixed": [Response(True, 5), Response(True, 15), Response(False, 20, True), Response(False, 9)],
    "cut but right": [Response(True, 20, True), Response(True, 20), Response(False, 4), Response(False, 18)],
    "all right": [Response(True, 5), Response(True, 19), Response(True, 20, True), Response(True, 7)],
    "all wrong": [Response(False, 5), Response(False, 19), Response(False, 20, True), Response(False, 7)],
}
INFORMATIVE = ["mixed", "cut but right"]


def spec_with(subset: Subset) -> RunSpec:
    algorithm: dict[str, Any] = dict(OFF)
    for name in subset:
        algorithm |= TOGGLES[name]
    return make_spec(
        algorithm=algorithm,
        sampling={"group_size": GROUP_SIZE, "max_response_tokens": LIMIT},
        reward={"overlong_buffer_tokens": BUFFER},
    )


def grade(response: Response, spec: RunSpec) -> pb.Grade:
    shaped = shaped_reward(response.correct, response.tokens, spec, truncated=response.truncated)
    finish = pb.FINISH_REASON_LENGTH if response.truncated else pb.FINISH_REASON_STOP
    completion = pb.Completion(prompt_tokens=3, response_tokens=response.tokens, finish_reason=finish)
    return pb.Grade(
        completion=completion, correct=response.correct, reward=shaped.reward, overlong_penalty=shaped.penalty
    )


def train_batch(subset: Subset) -> pb.TrainBatch:
    """As the platform does it: grade, judge by the verdicts, build."""
    spec = spec_with(subset)
    scored = [ScoredGroup(name, 0, [grade(one, spec) for one in group]) for name, group in GROUPS.items()]
    kept = [
        group
        for group in scored
        if not spec.algorithm.dynamic_sampling or is_informative([one.correct for one in group.grades])
    ]
    return build_batch(0, kept, spec)


def responses(batch: pb.TrainBatch) -> Iterator[tuple[Response, pb.TrainSample]]:
    for group in batch.groups:
        yield from zip(GROUPS[group.group_id], group.samples, strict=True)


@pytest.mark.parametrize("subset", SUBSETS, ids=lambda subset: "+".join(sorted(subset)) or "none")
def test_every_subset_gives_a_batch_that_keeps_its_promises(subset: Subset) -> None:
    batch = train_batch(subset)
    assert [group.group_id for group in batch.groups] == (INFORMATIVE if "dynamic_sampling" in subset else [*GROUPS])
    for response, sample in responses(batch):
        right = response.correct and not (response.truncated and "truncated_is_wrong" in subset)
        punished = max(0, response.tokens - (LIMIT - BUFFER)) / BUFFER if "soft_overlong" in subset else 0
        assert sample.reward == (1 if right else -1) - punished
        assert sample.in_loss == (not (response.truncated and "overlong_filtering" in subset))
        assert sample.truncated == response.truncated
    for group in batch.groups:
        check_advantages(group, std="std" in subset)


def check_advantages(group: pb.TrainGroup, *, std: bool) -> None:
    rewards = [sample.reward for sample in group.samples]
    advantages = [sample.advantage for sample in group.samples]
    assert all(map(isfinite, advantages))
    assert fsum(advantages) == pytest.approx(0, abs=1e-6)
    if len(set(rewards)) == 1:
        assert advantages == [0.0] * GROUP_SIZE
    else:
        assert pstdev(advantages) == pytest.approx(1 if std else pstdev(rewards), rel=1e-5)


@pytest.mark.parametrize("toggle", TOGGLES)
def test_every_toggle_changes_the_batch_beside_any_others(toggle: str) -> None:
    for subset in SUBSETS:
        if toggle not in subset:
            assert train_batch(subset | {toggle}) != train_batch(subset), sorted(subset)


def test_filtering_leaves_every_advantage_as_it_is() -> None:
    """What is filtered still counts in its group's mean and deviation."""
    for subset in SUBSETS:
        without, filtered = train_batch(subset - {"overlong_filtering"}), train_batch(subset | {"overlong_filtering"})
        advantages = [[sample.advantage for _, sample in responses(batch)] for batch in (without, filtered)]
        assert advantages[0] == advantages[1], sorted(subset)
