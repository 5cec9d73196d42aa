"""From scored groups to the record of a train batch."""

from collections.abc import Sequence
from typing import NamedTuple

from dapo.algo.advantages import group_advantages
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb


class ScoredGroup(NamedTuple):
    group_id: str
    issued_version: int
    grades: Sequence[pb.Grade]
    """One for each response, by index."""


def is_truncated(completion: pb.Completion) -> bool:
    """Cut at the token limit. A response that ends with EOS on its very last token is not."""
    return completion.finish_reason == pb.FINISH_REASON_LENGTH


def build_batch(number: int, groups: Sequence[ScoredGroup], spec: RunSpec) -> pb.TrainBatch:
    """Batch `number` with the advantages of its groups, in the order given.

    Overlong filtering takes truncated responses out of the loss; they still count in their group's mean and std.
    Raises ValueError for a group that is too stale or not complete.
    """
    return pb.TrainBatch(batch=number, groups=[_build_group(number, group, spec) for group in groups])


def _build_group(number: int, group: ScoredGroup, spec: RunSpec) -> pb.TrainGroup:
    staleness = number - group.issued_version
    if not 0 <= staleness <= spec.asynchrony.max_staleness:
        raise ValueError(
            f"group {group.group_id} was issued at version {group.issued_version}: batch {number} may not train on it "
            f"with asynchrony.max_staleness = {spec.asynchrony.max_staleness}"
        )
    if len(group.grades) != spec.sampling.group_size:
        raise ValueError(
            f"group {group.group_id} has {len(group.grades)} grades; sampling.group_size = {spec.sampling.group_size}"
        )
    # With a value network the learner estimates them for each token.
    advantages = [0.0] * len(group.grades)
    if spec.algorithm.advantage_estimator == "group":
        advantages = group_advantages([grade.reward for grade in group.grades], spec.algorithm)
    samples = [
        _build_sample(grade, advantage, spec.algorithm.overlong_filtering)
        for grade, advantage in zip(group.grades, advantages, strict=True)
    ]
    return pb.TrainGroup(group_id=group.group_id, issued_version=group.issued_version, samples=samples)


def _build_sample(grade: pb.Grade, advantage: float, overlong_filtering: bool) -> pb.TrainSample:
    completion = grade.completion
    truncated = is_truncated(completion)
    return pb.TrainSample(
        payload_key=completion.payload_key,
        prompt_tokens=completion.prompt_tokens,
        response_tokens=completion.response_tokens,
        reward=grade.reward,
        advantage=advantage,
        truncated=truncated,
        in_loss=not (overlong_filtering and truncated),
    )
