"""What is known of a group, as a structure and in words."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.bus import GroupRecord, GroupState
from dapo.bus.failures import FailureReason, explain_failure
from dapo.bus.ledger import TRANSITIONS
from dapo.bus.parts.records import GroupFacts, Mark, parse_facts
from dapo.bus.parts.streams import Holder
from dapo.records.explained import elapsed, steps_of, summary, what_happened
from dapo.records.explanations import GroupExplanation, explain_group
from dapo.v1 import messages_pb2 as pb
from tests.support.paths import REPO
from tests.support.samples import record


def completion(index: int, attempt: int = 0, *steps: int) -> pb.Completion:
    spans = [
        pb.VersionSpan(version=pb.Version(step=step), start=10 * at, end=10 * at + 10) for at, step in enumerate(steps)
    ]
    return pb.Completion(
        index=index, attempt=attempt, generator_id="generator-1", response_tokens=10 * len(steps), spans=spans,
        version_min=min(steps, default=0), version_max=max(steps, default=0),
    )  # fmt: skip


def facts(state: str, verdicts=(), *, size=None, ungraded=(), reason="", marks=(), **fields) -> GroupFacts:
    graded = record(verdicts=verdicts)
    task = graded.task
    task.group_size = size or len(verdicts) + len(ungraded)
    known = {"marks_lost": 0, "stream": "prompts", "deliveries": 1, "batch": None, "letter_id": "", "requeued_as": ""}
    found = GroupRecord(graded.group_id, task, state, reason, graded.grades)
    return GroupFacts(record=found, ungraded=list(ungraded), marks=list(marks), **{**known, **fields})


def words(found: GroupFacts, letter=None, holders=()) -> str:
    return " ".join(summary(explain_group(found, letter, holders)))


def test_a_trained_group_names_its_step_and_batch() -> None:
    assert (
        words(facts("trained", (True, False), batch=6))
        == "It was kept (1 of 2 correct) and trained on in step 7 (batch 6)."
    )


def test_a_filtered_group_says_why() -> None:
    assert words(facts("filtered", (True, True), reason="all correct")) == (
        "Dynamic sampling filtered it: all correct (2 of 2 correct), so that every advantage would be 0."
    )


def test_a_group_that_waits_says_for_what_and_who_has_it() -> None:
    waiting = facts("issued", (True,), ungraded=[completion(1)], size=4)
    holders = [
        Holder("prompts", waiting.record.group_id, None, "generator-0", True, 12.34),
        Holder("completions", waiting.record.group_id, 1, "verifier-0", False, 90),
    ]
    assert words(waiting, None, holders) == (
        "It waits for 2 responses of 4; 1 graded. generator-0 has had its prompt for 12 s and is alive. "
        "verifier-0, which has had response #1 for 90 s, is dead: another verifier takes over."
    )
    assert explain_group(waiting, None, holders).missing == (2, 3)
    unread = [Holder("completions", waiting.record.group_id, index, "", False, 3) for index in (2, 1)]
    assert "No verifier has taken responses #1, #2 yet, for 3 s." in words(facts("generated", (True,)), None, unread)


def test_a_failed_group_tells_its_reason_and_the_letters_detail() -> None:
    failed = facts("failed", size=4, reason="prompt_too_long", letter_id="1-0")
    letter = {"reason": "prompt_too_long", "detail": "900 tokens > data.max_prompt_tokens = 512"}
    assert words(failed, letter) == (
        f"It failed: {explain_failure('prompt_too_long')}. The letter says: {letter['detail']}"
    )
    assert explain_failure("prompt_too_long") in words(failed), "also where the letter has left"


def test_lost_tries_are_counted_and_told() -> None:
    marks = [
        Mark(1_000, "issued", []),
        Mark(2_000, "handed_back", ["generator-0/a", "1"]),
        Mark(3_500, "claimed", ["generator-1/b", "generator-2/c"]),
        Mark(4_000, "refilled", ["3", "generator-2", "21"]),
    ]
    found = explain_group(facts("scored", (True, False), marks=marks, deliveries=4), None, [])
    assert [what_happened(one) for one in found.happenings] == [
        "issued",
        "generator-0 handed the prompt back: its engine was lost",
        "generator-2 took over from generator-1, which had died",
        "response #3 of generator-2 was lost and is generated again",
    ]
    assert elapsed(found.happenings) == [0, 1, 2.5, 3]
    assert found.happenings[0].at == "1970-01-01T00:00:01.000+00:00"
    assert "delivered 4 times (1 handed back, 1 taken over from the dead, 1 for lost responses)" in summary(found)[-1]


def test_a_response_tells_its_delivery_its_try_and_the_weights_of_its_tokens() -> None:
    found = explain_group(facts("generated", ungraded=[completion(0, 12, 3, 4), completion(1, 0, 3)]), None, [])
    first, second = found.responses
    assert (first.delivery, first.retry, steps_of(first)) == (2, 3, "3 (0-10), 4 (10-20)")
    assert (second.delivery, second.retry, steps_of(second), second.verdict) == (1, 1, "3", None)
    assert summary(found)[-1] == "Not of a delivery's first try: #0."


def test_responses_that_were_continued_tell_the_tokens_that_were_kept() -> None:
    responses = [completion(0, 0, 3, 4), completion(1, 0, 3), completion(2, 0, 4)]
    responses[0].salvaged_tokens, responses[2].salvaged_tokens = 10, 7
    found = explain_group(facts("generated", ungraded=responses), None, [])
    assert [one.salvaged for one in found.responses] == [10, 0, 7]
    assert summary(found)[-1] == "Cut short, and continued from the tokens that they had: #0 (10), #2 (7)."


@given(
    state=st.sampled_from([state.value for state in TRANSITIONS]),
    verdicts=st.lists(st.booleans(), max_size=4),
    ungraded=st.integers(0, 3),
    reason=st.text(max_size=20),
    batch=st.none() | st.integers(0, 9),
    letter=st.none() | st.sampled_from([*FailureReason, "of another release"]),
)
def test_every_group_is_explained(state, verdicts, ungraded, reason, batch, letter) -> None:
    waiting = [completion(len(verdicts) + index) for index in range(ungraded)]
    known = facts(state, verdicts, ungraded=waiting, size=8, reason=reason, batch=batch)
    found = explain_group(known, None if letter is None else {"reason": letter, "detail": ""}, [])
    assert [one.index for one in found.responses] == list(range(len(verdicts) + ungraded))
    assert summary(found)[0].startswith("It ") or state in ("scored", "filtered")
    assert GroupExplanation.model_validate_json(found.model_dump_json()) == found


def test_every_state_has_words_of_its_own() -> None:
    told = {state: words(facts(state.value, (True, False), reason="why")) for state in GroupState}
    assert len(set(told.values())) == len(GroupState)


def test_a_record_of_a_release_without_trails_is_read() -> None:
    task = record().task
    fields = {
        b"task": task.SerializeToString(),
        b"state": b"issued",
        b"reason": b"",
        b"stream": b"prompts",
        b"attempts": b"1",
    }
    assert parse_facts("run", task.group_id, fields).marks == []


@pytest.mark.parametrize("reason", FailureReason)
def test_every_reason_is_explained_and_filed_by_somebody(reason: FailureReason) -> None:
    assert "does not know" not in explain_failure(reason)
    sources = [
        path for top in ("dapo", "services") for path in (REPO / top).rglob("*.py") if path.name != "failures.py"
    ]
    assert any(f"FailureReason.{reason.name}" in path.read_text() for path in sources)
