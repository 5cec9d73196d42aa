"""Which gold answers of text can be met honestly, and lists of alternatives.

Used by the graders that compare texts. What makes a gold answer unfit is found once for each, at the first grading,
and by `dapo data inspect` and `dapo data prepare` before any.
"""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from services.verifier.graders.reading.extraction import final_answer
from services.verifier.graders.verdict import GoldCheck, GradeFunction, Grader, Verdict, wrong

_CACHED = 4096
_MAX_ALTERNATIVES = 64
_MAX_WORDS = 8
"""Of one item of a mathematical answer: "the second player has a winning strategy" is one, a proof's step is none."""
_NOWHERE = frozenset(("proof", "notfound", "not found", "n/a", "tbd"))
_NO_MATHEMATICS = _NOWHERE | frozenset((
    "na", "null", "nan", "nil", "unknown", "todo", "omitted", "missing", "blank", "empty", "placeholder",
    "answer", "solution", "the answer", "the solution", "no answer", "answer not found", "no answer found",
    "not available", "not applicable", "not given", "not provided", "not specified", "unavailable", "unanswered",
    "see solution", "see the solution", "see proof", "see the proof", "see above", "see below", "see explanation",
    "proved", "proven", "prove", "to prove", "to be proved", "the proof", "proof omitted", "proof question",
    "proof required", "q.e.d", "qed", "as shown", "as above", "to be determined", "error", "failed", "invalid",
))  # fmt: skip
"""What stands in mathematical data where there is no answer."""
_NOTHING = re.compile(r"[\s.…?_*\"'`$—–-]*")
_SHELL = re.compile(r"\\(?:text|mbox|boxed|fbox|math|emph)[a-z]*\s*|[\s$*`{}()\[\]\"':;,!?~]+")
_COMMAND = re.compile(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[A-Za-z]{2,}")
_ITEM_END = re.compile(r"[,;\n]|\b(?:and|or)\b")
_PLAIN_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?", re.ASCII)
"""It is met by itself, by every rule."""
_NEXT_SENTENCE = re.compile(r"(?:[a-z]{3,}|\b[Yy]es|\b[Nn]o)[.!?]\s+[A-Z][a-z]*\b")


class _Golds(NamedTuple):
    accepted: tuple[str, ...]
    problem: str
    """Why none is accepted."""


def compares(grade: GradeFunction, problem: GoldCheck, answer_class: Callable[[str], str]) -> Grader:
    """The grader that accepts each of a list of alternatives, and refuses gold answers that have a `problem`.

    `grade` and `problem` see one alternative.
    """

    @lru_cache(_CACHED)
    def read(gold: str) -> _Golds:
        listed = alternatives(gold)
        if len(listed) > _MAX_ALTERNATIVES:
            return _Golds((), f"{len(listed)} alternatives, {_MAX_ALTERNATIVES} may be")
        problems = [problem(one) for one in listed]
        accepted = tuple(one for one, found in zip(listed, problems, strict=True) if not found)
        return _Golds(accepted, "" if accepted else problems[0])

    def graded(text: str, gold: str) -> Verdict:
        golds = read(gold)
        if golds.problem:
            return wrong("bad_gold", golds.problem)
        verdict = grade(text, golds.accepted[0])
        for other in golds.accepted[1:]:
            if verdict.correct:
                break
            found = grade(text, other)
            verdict = found if found.correct or verdict.failed else verdict
        return verdict

    return Grader(graded, lambda gold: read(gold).problem, answer_class)


def alternatives(gold: str) -> tuple[str, ...]:
    """Each of a JSON list of texts, numbers among them; else the gold answer itself, as "[1, 2]" is an interval."""
    if gold.lstrip()[:1] != "[":
        return (gold,)
    try:
        found = json.loads(gold)
    except (ValueError, RecursionError):
        return (gold,)
    texts = any(isinstance(one, str) for one in found)
    if not texts or not all(isinstance(one, (str, int, float)) and not isinstance(one, bool) for one in found):
        return (gold,)
    return tuple(dict.fromkeys(map(str, found)))


def text_problem(gold: str) -> str:
    """Of a gold answer that is compared as text."""
    if not gold.strip():
        return "it is empty"
    return "it is a placeholder" if gold.strip().replace("_", " ").casefold() in _NOWHERE else ""


def mathematical_problem(grade: GradeFunction, answering: Callable[[str], str]) -> GoldCheck:
    """Of a mathematical one, which must also grade itself as right: `answering` makes a response of it."""

    def problem(gold: str) -> str:
        if not gold.strip():
            return "it is empty"
        if _PLAIN_NUMBER.fullmatch(gold):
            return ""
        written = final_answer(gold) or gold
        if _NOTHING.fullmatch(written) or _bare_words(written) in _NO_MATHEMATICS:
            return "it is a placeholder"
        if _is_prose(written):
            return "it is prose"
        verdict = grade(answering(gold.strip()), gold)
        return "" if verdict.correct else f"it does not grade itself as right ({verdict.reason})"

    return problem


def _bare_words(written: str) -> str:
    return _SHELL.sub(" ", written).replace("_", " ").strip(" .").casefold()


def _is_prose(written: str) -> bool:
    words = _COMMAND.sub(" ", written)
    if _NEXT_SENTENCE.search(words):
        return True
    return any(len(_WORD.findall(item)) > _MAX_WORDS for item in _ITEM_END.split(words))
