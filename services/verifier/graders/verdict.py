"""What a grader says of one response."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from dapo.contracts.verdicts import GRADER_FAILURES

MAX_EXTRACTED = 200
"""Characters of the extracted answer that a verdict keeps."""


class Unbuildable(Exception):
    """A grader's options cannot be put to work on this machine; the text names the value and the cure."""


class Verdict(NamedTuple):
    correct: bool
    """What dynamic sampling and accuracy go by; where a score is graded, whether it reaches the threshold."""
    score: float
    """In [0, 1]; 1.0 or 0.0 where there are no partial marks."""
    reason: str
    """equal, different, no_answer, empty_gold, too_long, passed, below_threshold …, or one of GRADER_FAILURES."""
    extracted: str = ""
    """The answer as it was compared, shortened."""
    parts: Mapping[str, float] = {}
    """Scores of the parts of a weighted sum, by grader."""

    @property
    def failed(self) -> bool:
        """The grading went wrong, so the verdict says nothing of the response."""
        return self.reason in GRADER_FAILURES


Grade = Callable[[str, str], Verdict]
"""(response, gold) -> verdict: pure, deterministic, and free to hang or crash, as it runs in a killable process."""


def encodable(verdict: Verdict) -> Verdict:
    """Its words as text that UTF-8 can hold: a lone surrogate, as of a program's exception, becomes `\\ud800`."""
    parts = {_encodable(name): score for name, score in verdict.parts.items()}
    extracted = _encodable(verdict.extracted)[:MAX_EXTRACTED]
    return verdict._replace(reason=_encodable(verdict.reason), extracted=extracted, parts=parts)


def _encodable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def wrong(reason: str, extracted: str = "") -> Verdict:
    return Verdict(False, 0.0, reason, extracted[:MAX_EXTRACTED])


def right(reason: str, extracted: str = "") -> Verdict:
    return Verdict(True, 1.0, reason, extracted[:MAX_EXTRACTED])


def scored(score: float, threshold: float, extracted: str = "") -> Verdict:
    """A graded score: correct from `threshold` on."""
    correct = score >= threshold
    return Verdict(correct, score, "passed" if correct else "below_threshold", extracted[:MAX_EXTRACTED])


def compare(answer: str, gold: str) -> Verdict:
    """Of two normal forms. An empty answer is never correct, whatever the gold answer is."""
    if not gold:
        return wrong("empty_gold", answer)
    if not answer:
        return wrong("no_answer")
    return right("equal", answer) if answer == gold else wrong("different", answer)
