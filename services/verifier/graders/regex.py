"""`regex`: the last match of the user's pattern. The pool ends a pattern that backtracks for ever."""

import re
from collections import deque

from dapo.spec.tree.graders import RegexGrader
from services.verifier.graders.verdict import GradeFunction, GraderSetupError, Verdict, compare_texts, right, wrong


def make_regex(options: RegexGrader) -> GradeFunction:
    """Raises GraderSetupError where the pattern is none."""
    try:
        pattern = re.compile(options.pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise GraderSetupError(f"{options.pattern!r} is no regular expression: {error}. Mend it") from error

    def grade(text: str, gold: str) -> Verdict:
        answer = _last_match(pattern, text).strip()
        if options.compare:
            return compare_texts(answer, gold.strip())
        return right("matched", answer) if answer else wrong("no_answer")

    return grade


def _last_match(pattern: re.Pattern[str], text: str) -> str:
    """Its first group, where the pattern has one."""
    last = deque(pattern.finditer(text), maxlen=1)
    return last[0][1 if pattern.groups else 0] or "" if last else ""
