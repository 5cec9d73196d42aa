"""`regex`: the last match of the user's pattern. A pattern that takes for ever is the pool's to end."""

import re
from collections import deque

from dapo.spec.tree.graders import RegexGrader
from services.verifier.graders.verdict import Grade, Unbuildable, Verdict, compare, right, wrong


def make_regex(options: RegexGrader) -> Grade:
    """Raises Unbuildable where the pattern is none."""
    try:
        pattern = re.compile(options.pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise Unbuildable(f"{options.pattern!r} is no regular expression: {error}. Mend it") from error

    def grade(text: str, gold: str) -> Verdict:
        answer = _last_match(pattern, text).strip()
        if options.compare:
            return compare(answer, gold.strip())
        return right("matched", answer) if answer else wrong("no_answer")

    return grade


def _last_match(pattern: re.Pattern[str], text: str) -> str:
    """Its first group, where the pattern has one."""
    last = deque(pattern.finditer(text), maxlen=1)
    return last[0][1 if pattern.groups else 0] or "" if last else ""
