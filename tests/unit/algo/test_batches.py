"""Batches built from grades."""

from collections.abc import Sequence

import pytest

from dapo.algo.batches import ScoredGroup, build_batch
from dapo.v1 import messages_pb2 as pb
from tests.unit.algo.test_advantages import make_spec

LIMIT = 20


def make_grade(
    correct: bool, tokens: int = 5, *, finish: pb.FinishReason = pb.FINISH_REASON_STOP, reward: float | None = None
) -> pb.Grade:
    completion = pb.Completion(payload_key=f"p:{tokens}", prompt_tokens=3, response_tokens=tokens, finish_reason=finish)
    return pb.Grade(
        completion=completion, correct=correct, reward=(1.0 if correct else -1.0) if reward is None else reward
    )


def make_group(verdicts: Sequence[bool], *, group_id: str = "g0000000000", version: int = 0) -> ScoredGroup:
    return ScoredGroup(group_id, version, [make_grade(correct, 5 + index) for index, correct in enumerate(verdicts)])


def test_a_batch_carries_references_lengths_and_advantages() -> None:
    spec = make_spec(sampling={"group_size": 4, "max_response_tokens": LIMIT}, reward={"overlong_buffer_tokens": 4})
    group = make_group([True, True, False, False], version=2)
    batch = build_batch(3, [group], spec)
    assert batch.batch == 3
    assert not batch.end
    (built,) = batch.groups
    assert (built.group_id, built.issued_version) == (group.group_id, 2)
    assert [sample.advantage for sample in built.samples] == pytest.approx([1, 1, -1, -1], abs=1e-5)
    assert [sample.reward for sample in built.samples] == [1, 1, -1, -1]
    assert [sample.payload_key for sample in built.samples] == ["p:5", "p:6", "p:7", "p:8"]
    assert [sample.response_tokens for sample in built.samples] == [5, 6, 7, 8]
    assert all(sample.prompt_tokens == 3 and sample.in_loss and not sample.truncated for sample in built.samples)


def test_advantages_come_from_the_shaped_reward() -> None:
    spec = make_spec(sampling={"group_size": 2})
    grades = [make_grade(True, reward=0.5), make_grade(True, reward=1.0)]
    batch = build_batch(0, [ScoredGroup("g0000000000", 0, grades)], spec)
    assert [sample.advantage for sample in batch.groups[0].samples] == pytest.approx([-1, 1], abs=1e-4)


@pytest.mark.parametrize("filtering", [True, False])
def test_pitfall_15_truncated_means_finish_reason_length_not_length_equal_to_the_limit(filtering: bool) -> None:
    spec = make_spec(
        sampling={"group_size": 3, "max_response_tokens": LIMIT},
        reward={"overlong_buffer_tokens": 4},
        algorithm={"overlong_filtering": filtering},
    )
    grades = [
        make_grade(True, LIMIT, finish=pb.FINISH_REASON_STOP),
        make_grade(False, LIMIT, finish=pb.FINISH_REASON_LENGTH),
        make_grade(False, 4),
    ]
    samples = build_batch(0, [ScoredGroup("g0000000000", 0, grades)], spec).groups[0].samples
    assert [sample.truncated for sample in samples] == [False, True, False]
    assert [sample.in_loss for sample in samples] == [True, not filtering, True]
    assert samples[1].advantage == samples[2].advantage, "a filtered response still counts in the group's mean"


@pytest.mark.parametrize("version", [0, 4])
def test_a_group_beyond_the_staleness_bound_is_refused(version: int) -> None:
    spec = make_spec(sampling={"group_size": 2}, asynchrony={"max_staleness": 2})
    with pytest.raises(ValueError, match=f"issued at version {version}: batch 3 may not"):
        build_batch(3, [make_group([True, False], version=version)], spec)


def test_an_incomplete_group_is_refused() -> None:
    with pytest.raises(ValueError, match="has 1 grades"):
        build_batch(0, [make_group([True])], make_spec(sampling={"group_size": 2}))
