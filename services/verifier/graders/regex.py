"""`regex`: the last match of the user's pattern. The pool ends a pattern that backtracks for ever."""

import re
from collections import deque

from dapo.spec.tree.graders import RegexGrader
from services.verifier.graders.equivalence import class_of_text
from services.verifier.graders.golds import compares, text_problem
from services.verifier.graders.verdict import Grader, GraderSetupError, Verdict, compare_texts, right, wrong


def make_regex(options: RegexGrader) -> Grader:
    """Raises GraderSetupError where the pattern is none."""
    try:
        pattern = re.compile(options.pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise GraderSetupError(f"{options.pattern!r} is no regular expression: {error}. Mend it") from error

    def grade(text: str, gold: str) -> Verdict:
        return compare_texts(_last_match(pattern, text), gold.strip())

    def match(text: str, gold: str) -> Verdict:
        answer = _last_match(pattern, text)
        return right("matched", answer) if answer else wrong("no_answer")

    def classify(text: str) -> str:
        return class_of_text(_last_match(pattern, text))

    return compares(grade, text_problem, classify) if options.compare else Grader(match, answer_class=classify)


def _last_match(pattern: re.Pattern[str], text: str) -> str:
    """Its first group, where the pattern has one, without white space at both ends."""
    last = deque(pattern.finditer(text), maxlen=1)
    return (last[0][1 if pattern.groups else 0] or "").strip() if last else ""
