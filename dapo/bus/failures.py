"""Why groups fail: the reasons of dead letters, and what each means."""

from enum import StrEnum


class FailureReason(StrEnum):
    """Whoever files a dead letter names one of these, as the type checker sees to."""

    MALFORMED = "malformed"
    PROMPT_EMPTY = "prompt_empty"
    PROMPT_TOO_LONG = "prompt_too_long"
    PROMPT_REFUSED = "prompt_refused"
    GENERATION_FAILED = "generation_failed"
    GRADER_FAILED = "grader_failed"
    GRADER_UNAVAILABLE = "grader_unavailable"
    PAYLOAD_MISSING = "payload_missing"
    PAYLOAD_UNUSABLE = "payload_unusable"
    STALLED = "stalled"


_SENTENCES: dict[FailureReason, str] = {
    FailureReason.MALFORMED: "an entry of a stream could not be read: something else writes to the run's keys",
    FailureReason.PROMPT_EMPTY: "the prompt has no tokens: mend the row",
    FailureReason.PROMPT_TOO_LONG: "the prompt is longer than data.max_prompt_tokens: shorten the row or raise that",
    FailureReason.PROMPT_REFUSED: "the model's chat template does not render the prompt's messages: mend the row",
    FailureReason.GENERATION_FAILED: "no generator could make all responses, however often it was tried",
    FailureReason.GRADER_FAILED: "the grader failed at a response, and reward.grader_failure is fail_group",
    FailureReason.GRADER_UNAVAILABLE: "the grader was out of reach for too long",
    FailureReason.PAYLOAD_MISSING: "the text of a response was lost before its grade, after all refills of its index",
    FailureReason.PAYLOAD_UNUSABLE: "a response's tokens were lost or unusable, so its batch was trained without it",
    FailureReason.STALLED: "whoever had it got nowhere with it, and restarts did not help: the run went on without it",
}

HOPELESS = frozenset({FailureReason.PROMPT_EMPTY, FailureReason.PROMPT_TOO_LONG, FailureReason.PROMPT_REFUSED})
"""The same prompt would fail again."""


def explain_failure(reason: str) -> str:
    """The reason in a sentence."""
    try:
        return _SENTENCES[FailureReason(reason)]
    except ValueError:
        return f"{reason!r}, a reason that this release does not know"
