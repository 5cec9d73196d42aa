"""A step as spans: what was measured where, in the right order, whatever is missing."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dapo.bus.parts.records import GroupFacts, GroupRecord, Mark
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.tracking.sink import Trained
from services.orchestrator.tracking.traces import Span, step_trace

STATES = ("issued", "generated", "scored", "kept", "batched", "trained")
ROW: dict[str, Any] = {"step": 4, "train_s": 0.5, "weight_sync_s": 0.2, "staleness_max": 1, "loss": None}


def group(times: dict[str, int], *more: Mark) -> GroupFacts:
    task = pb.PromptTask(group_id="g7", row_id="d:7", grader="exact", group_size=2, issued_version=2)
    grades = [
        pb.Grade(
            completion=pb.Completion(
                index=index, prompt_tokens=5, response_tokens=10, version_min=2, version_max=2 + index
            ),
            correct=index == 0,
        )
        for index in range(2)
    ]
    record = GroupRecord("g7", task, "trained", "", grades)
    marks = [*(Mark(at_ms, what, []) for what, at_ms in times.items()), *more]
    return GroupFacts(record, [], marks, 0, "prompts", 1, 3, "", "")


def test_a_step_begins_with_its_first_group_and_ends_with_its_weights() -> None:
    times = dict(zip(STATES, (1000, 3000, 3500, 3600, 4000, 5000), strict=True))
    step = step_trace(ROW, Trained([group(times)], 9000), "m")
    assert (step.name, step.start_ms, step.end_ms) == ("step", 1000, 5000)
    assert step.attributes == {
        "dapo.step": 4,
        "dapo.staleness_max": 1,
    }
    one, train, update = step.children
    assert [(child.name, child.start_ms, child.end_ms) for child in one.children] == [
        ("text_completion m", 1000, 3000),
        ("verify", 3000, 3500),
        ("wait for batch", 3500, 4000),
        ("wait for learner and train", 4000, 5000),
    ]
    assert (train.name, train.start_ms, train.end_ms) == ("train", 4300, 4800)
    assert (update.name, update.start_ms, update.end_ms) == ("update weights", 4800, 5000)
    assert one.attributes["dapo.group.id"] == "g7"
    assert one.attributes["dapo.staleness"] == 1
    generation, verification = one.children[0].attributes, one.children[1].attributes
    assert (generation["gen_ai.usage.output_tokens"], generation["gen_ai.usage.input_tokens"]) == (20, 5)
    assert (generation["dapo.version.min"], generation["dapo.version.max"]) == (2, 3)
    assert verification == {"dapo.grader": "exact", "dapo.correct": 1}


def test_of_a_group_that_was_issued_again_the_first_issue_and_the_last_answer_count() -> None:
    times = dict(zip(STATES, (1000, 3000, 3500, 3600, 4000, 5000), strict=True))
    facts = group(times)
    again = [*facts.marks[:2], Mark(3100, "refilled", []), Mark(3200, "issued", []), Mark(3300, "generated", [])]
    facts = group({}, *again, *facts.marks[2:])
    (one, *_) = step_trace(ROW, Trained([facts], 9000), "m").children
    assert [(child.start_ms, child.end_ms) for child in one.children][:2] == [(1000, 3300), (3300, 3500)]


def test_without_groups_a_step_is_its_training() -> None:
    step = step_trace({"step": 1, "train_s": 0.5, "weight_sync_s": None}, Trained([], 9000), "m")
    assert (step.start_ms, step.end_ms) == (8500, 9000)
    assert [child.name for child in step.children] == ["train", "update weights"]


@given(st.lists(st.lists(st.integers(0, 100_000), min_size=6, max_size=6).map(sorted), max_size=4))
def test_no_span_ends_before_it_begins_or_leaves_its_parent(times: list[list[int]]) -> None:
    groups = [group(dict(zip(STATES, (one + 10_000 for one in many), strict=True))) for many in times]
    step = step_trace(ROW, Trained(groups, 200_000), "m")

    def check(span: Span) -> None:
        assert span.start_ms <= span.end_ms
        for child in span.children:
            assert span.start_ms <= child.start_ms <= child.end_ms <= span.end_ms
            check(child)

    check(step)
