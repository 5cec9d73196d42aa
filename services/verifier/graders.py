"""Graders by name. A grader is a pure function of a response's text and the gold answer; it runs in a killable process.

No grader calls an empty answer correct, whatever the gold answer is.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from services.verifier.minerva import normalise

MAX_EXTRACTED = 200
"""Characters of the extracted answer that a verdict keeps."""


class Verdict(NamedTuple):
    correct: bool
    score: float
    """1.0 or 0.0 for the graders here; a grader may give partial marks."""
    reason: str
    """equal, different, no_answer, empty_gold or too_long; of the pool: timeout, crash or unknown_grader."""
    extracted: str = ""
    """The answer as it was compared, shortened."""


class Grader(NamedTuple):
    grade: Callable[[str, str], Verdict]
    """(text, gold) -> verdict."""
    max_characters: int
    """What it reads of a text or a gold answer at most."""
    reads_tail: bool = False
    """Of a longer text it gets the end; otherwise a longer text is wrong with the reason too_long."""


def wrong(reason: str, extracted: str = "") -> Verdict:
    return Verdict(False, 0.0, reason, extracted[:MAX_EXTRACTED])


def _compare(answer: str, gold: str) -> Verdict:
    if not gold:
        return wrong("empty_gold", answer)
    if not answer:
        return wrong("no_answer")
    if answer != gold:
        return wrong("different", answer)
    return Verdict(True, 1.0, "equal", answer[:MAX_EXTRACTED])


def grade_exact(text: str, gold: str) -> Verdict:
    """The whole response equals the gold answer, white space at both ends aside."""
    return _compare(text.strip(), gold.strip())


_TAIL_CHARACTERS = 300
_ANSWER = re.compile(r"(?i)Answer\s*:\s*([^\n]+)")
_normal_gold = lru_cache(maxsize=4096)(normalise)


def grade_math_dapo(text: str, gold: str) -> Verdict:
    """DAPO's rule (arXiv 2503.14476): the last "Answer: …" within the last 300 characters, normal forms compared."""
    answers = _ANSWER.findall(text[-_TAIL_CHARACTERS:])
    return _compare(normalise(answers[-1]) if answers else "", _normal_gold(gold))


GRADERS: dict[str, Grader] = {
    "exact": Grader(grade_exact, 100_000),
    "math_dapo": Grader(grade_math_dapo, _TAIL_CHARACTERS, reads_tail=True),
}
