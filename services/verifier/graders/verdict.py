"""The verdict of a grader on one response, and how to make one."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from dapo.contracts.verdicts import GRADER_FAILURES

MAX_EXTRACTED = 200
"""Characters of the extracted answer that a verdict keeps."""


class GraderSetupError(Exception):
    """A grader cannot be set up here with its options. The message names the value and the cure."""


class Verdict(NamedTuple):
    correct: bool
    """Used by dynamic sampling and accuracy. Of a graded score: whether it reaches the threshold."""
    score: float
    """In [0, 1]; 1.0 or 0.0 where there are no partial marks."""
    reason: str
    """equal, different, no_answer, too_long, passed, below_threshold …, or one of GRADER_FAILURES."""
    extracted: str = ""
    """The answer as it was compared, shortened."""
    parts: Mapping[str, float] = {}
    """Scores of the parts of a weighted sum, by grader."""
    unclosed_thinking: bool = False
    """The response ends within its thinking, so there is no answer."""

    @property
    def failed(self) -> bool:
        """The grading itself failed, so the verdict says nothing about the response."""
        return self.reason in GRADER_FAILURES


GradeFunction = Callable[[str, str], Verdict]
"""(response, gold) → verdict. Pure and deterministic; it may hang or crash, as it runs in a killable process."""
GoldCheck = Callable[[str], str]
"""gold → why no response can honestly meet it, in words; empty where one can, or nobody can tell."""


class Grader(NamedTuple):
    """One rule in its parts. They are pure, and may hang or crash as a GradeFunction may."""

    grade: GradeFunction
    gold_problem: GoldCheck = lambda gold: ""
    """Of a gold answer with such a problem `grade` says bad_gold."""
    answer_class: Callable[[str], str] | None = None
    """response → a short text, equal where this rule calls the answers equal; empty where there is no answer. None
    where responses have no answers that could agree."""

    def __call__(self, text: str, gold: str) -> Verdict:
        return self.grade(text, gold)


def utf8_safe(verdict: Verdict) -> Verdict:
    """The same with text that UTF-8 can encode: a lone surrogate becomes `\\ud800`."""
    parts = {_utf8_safe_text(name): score for name, score in verdict.parts.items()}
    extracted = _utf8_safe_text(verdict.extracted)[:MAX_EXTRACTED]
    return verdict._replace(reason=_utf8_safe_text(verdict.reason), extracted=extracted, parts=parts)


def _utf8_safe_text(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def wrong(reason: str, extracted: str = "") -> Verdict:
    return Verdict(False, 0.0, reason, extracted[:MAX_EXTRACTED])


def right(reason: str, extracted: str = "") -> Verdict:
    return Verdict(True, 1.0, reason, extracted[:MAX_EXTRACTED])


def scored(score: float, threshold: float, extracted: str = "") -> Verdict:
    """A graded score: correct from `threshold` on."""
    correct = score >= threshold
    return Verdict(correct, score, "passed" if correct else "below_threshold", extracted[:MAX_EXTRACTED])


def compare_texts(answer: str, gold: str) -> Verdict:
    """The verdict on two normal forms, correct if they are equal. An empty answer is never correct."""
    if not answer:
        return wrong("no_answer")
    return right("equal", answer) if answer == gold else wrong("different", answer)
