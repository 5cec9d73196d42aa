"""The statistics of a step, from its graded groups."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.algo.batches import ScoredGroup
from dapo.algo.statistics import summarise_batch, summarise_graded
from dapo.telemetry.metrics import BY_NAME
from dapo.v1 import messages_pb2 as pb
from tests.unit.algo.test_batches import make_group

PENALTIES = (0.0, -0.25, -1.0)
finish_reasons = st.sampled_from([pb.FINISH_REASON_STOP, pb.FINISH_REASON_LENGTH])


@st.composite
def graded_groups(draw: st.DrawFn) -> list[ScoredGroup]:
    size = draw(st.integers(1, 5))

    def draw_grade() -> pb.Grade:
        correct, penalty = draw(st.booleans()), draw(st.sampled_from(PENALTIES))
        measured = {"fingerprint": draw(st.integers(0, 2)), "repetition": draw(st.floats(0, 1, width=32))}
        return pb.Grade(
            completion=pb.Completion(response_tokens=draw(st.integers(1, 50)), finish_reason=draw(finish_reasons)),
            correct=correct,
            reward=(1 if correct else -1) + penalty,
            overlong_penalty=penalty,
            extracted=draw(st.sampled_from(["", "1", "2"])),
            reflection=draw(st.booleans()),
            **measured,
        )

    count = draw(st.integers(1, 6))
    return [ScoredGroup(f"g{number:010d}", 0, [draw_grade() for _ in range(size)]) for number in range(count)]


def share(grades: Sequence[pb.Grade], holds: Callable[[pb.Grade], bool]) -> float:
    return len([grade for grade in grades if holds(grade)]) / len(grades)


def test_statistics_of_a_step_count_filtered_groups_too() -> None:
    groups = [make_group([True, False]), make_group([True, True]), make_group([False, False]), make_group([False] * 2)]
    groups[0].grades[1].completion.finish_reason = pb.FINISH_REASON_LENGTH
    groups[0].grades[1].completion.salvaged_tokens, groups[1].grades[0].completion.salvaged_tokens = 3, 2
    assert summarise_graded(groups) == {
        "accuracy_mean": 3 / 8,
        "reward_mean": -2 / 8,
        "accuracy_reward_mean": -2 / 8,
        "overlong_penalty_mean": 0,
        "correct_penalised_share": 0,
        "response_length_mean": 5.5,
        "truncated_share": 1 / 8,
        "salvaged_tokens": 5,
        "unclosed_thinking_share": 0,
        "grader_failed_share": 0,
        "keep_rate": 1 / 4,
        "all_correct_share": 1 / 4,
        "all_wrong_share": 2 / 4,
        "distinct_answers_mean": 1,
    }
    assert summarise_graded(groups, dynamic_sampling=False)["keep_rate"] == 1.0
    assert summarise_graded([]) == {}


def test_responses_that_end_within_their_thinking_are_counted() -> None:
    group = make_group([True, False, False, False])
    group.grades[2].unclosed_thinking = True
    assert summarise_graded([group])["unclosed_thinking_share"] == 1 / 4


def test_failed_gradings_are_told_from_wrong_answers() -> None:
    group = make_group([True, False, False, False])
    for grade, reason in zip(group.grades, ("equal", "different", "timeout", "unavailable"), strict=True):
        grade.reason = reason
    assert summarise_graded([group])["grader_failed_share"] == 1 / 2


def test_length_penalties_are_told_from_the_verdicts_reward() -> None:
    group = make_group([True, True, False, False])
    for grade, penalty in zip(group.grades, (-0.5, 0.0, -1.0, 0.0), strict=True):
        grade.overlong_penalty, grade.reward = penalty, grade.reward + penalty
    found = summarise_graded([group])
    assert found["reward_mean"] == -1.5 / 4
    assert found["accuracy_reward_mean"] == 0
    assert found["overlong_penalty_mean"] == -1.5 / 4
    assert found["correct_penalised_share"] == 1 / 4


def test_diversity_is_counted_within_groups() -> None:
    groups = [make_group([True] * 3), make_group([True] * 3)]
    for group, marks in zip(groups, ((1, 1, 2), (1, 2, 3)), strict=True):
        for grade, mark in zip(group.grades, marks, strict=True):
            grade.fingerprint, grade.repetition, grade.reflection = mark, 0.5, mark == 3
    for grade, answer in zip(groups[0].grades, ("4", "", ""), strict=True):
        grade.extracted = answer
    found = summarise_graded(groups)
    assert found["distinct_responses_mean"] == 2.5
    assert found["distinct_answers_mean"] == 1.5
    assert found["repetition_rate"] == 0.5
    assert found["reflection_share"] == 1 / 6


def test_what_was_not_measured_does_not_count_as_zero() -> None:
    groups = [make_group([True] * 2), make_group([True] * 2)]
    for index, grade in enumerate(groups[0].grades):
        grade.fingerprint, grade.repetition, grade.reflection = index, 0.5, True
    grade = groups[1].grades[0]
    grade.fingerprint, grade.repetition, grade.reflection = 7, 0.2, True
    found = summarise_graded(groups)
    assert found["repetition_rate"] == pytest.approx(0.4)
    assert found["reflection_share"] == 1
    assert found["distinct_responses_mean"] == 2
    assert "distinct_responses_mean" not in summarise_graded(groups[1:])
    assert "repetition_rate" not in summarise_graded([make_group([True])])


@given(graded_groups())
def test_statistics_agree_with_their_definitions(groups: list[ScoredGroup]) -> None:
    found = summarise_graded(groups)
    grades = [grade for group in groups for grade in group.grades]
    size = len(groups[0].grades)
    assert found["accuracy_reward_mean"] == pytest.approx(2 * found["accuracy_mean"] - 1)
    assert found["reward_mean"] == pytest.approx(found["accuracy_reward_mean"] + found["overlong_penalty_mean"])
    assert found["correct_penalised_share"] == share(grades, lambda one: one.correct and one.overlong_penalty < 0)
    assert found["reflection_share"] == share(grades, lambda one: one.reflection)
    assert found["keep_rate"] + found["all_correct_share"] + found["all_wrong_share"] == pytest.approx(1)
    assert 1 <= found["distinct_responses_mean"] <= size
    assert 1 <= found["distinct_answers_mean"] <= size
    assert all(0 <= found[name] <= 1 for name in found if BY_NAME[name].unit == "share")


@given(graded_groups())
def test_neither_the_order_of_groups_nor_of_responses_matters(groups: list[ScoredGroup]) -> None:
    turned = [group._replace(grades=group.grades[::-1]) for group in reversed(groups)]
    assert summarise_graded(turned) == summarise_graded(groups)
    assert summarise_batch(0, turned) == summarise_batch(0, groups)


def test_statistics_of_a_batch() -> None:
    groups = [
        make_group([True, False], version=3),
        make_group([True, True, True, False], version=5),
        make_group([False, False], version=5),
    ]
    assert summarise_batch(5, groups) == {
        "batch_accuracy_mean": 4 / 8,
        "effective_prompts": 2,
        "staleness_mean": pytest.approx(2 / 3),
        "staleness_max": 2.0,
    }
    assert summarise_batch(5, []) == {}


@given(graded_groups())
def test_a_batch_is_as_effective_as_its_groups_are_kept(groups: list[ScoredGroup]) -> None:
    kept = summarise_graded(groups)["keep_rate"]
    assert summarise_batch(0, groups)["effective_prompts"] == pytest.approx(kept * len(groups))


def test_every_statistic_is_declared() -> None:
    group = make_group([True, False])
    for grade in group.grades:
        grade.fingerprint = 1
    assert {**summarise_graded([group]), **summarise_batch(0, [group])}.keys() <= BY_NAME.keys()
