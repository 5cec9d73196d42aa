"""Graders that compare strings: `exact` and `math_dapo`."""

import re
from functools import lru_cache

from services.verifier.graders.minerva import normalise
from services.verifier.graders.verdict import Verdict, compare


def grade_exact(text: str, gold: str) -> Verdict:
    """The whole response equals the gold answer, white space at both ends aside."""
    return compare(text.strip(), gold.strip())


_ANSWER = re.compile(r"(?i)Answer\s*:\s*([^\n]+)")
_normal_gold = lru_cache(maxsize=4096)(normalise)


def grade_math_dapo(text: str, gold: str) -> Verdict:
    """DAPO's rule (arXiv 2503.14476): the last "Answer: …", normal forms compared.

    The pool gives the last 300 characters only, as the rule wants.
    """
    answers = _ANSWER.findall(text)
    return compare(normalise(answers[-1]) if answers else "", _normal_gold(gold))
