"""A grader that does what graders must not do, as the response asks; any other response is graded as `exact` does."""

import os
import sys
import time
from fractions import Fraction
from typing import Any

from services.verifier.graders import Verdict, grade_exact


def misbehave(text: str, gold: str) -> Verdict:
    match text:
        case "hang":
            while True:
                time.sleep(1)
        case "hang in C":
            return Verdict(str(9**9**9) == gold, 1.0, "equal")
        case "exit":
            os._exit(0)
        case "raise":
            raise ValueError(text)
        case "raise a surrogate":
            raise ValueError("\ud800")
        case "surrogate":
            return Verdict(False, 0.0, "different \udfff", "\ud800" * 150, {"\udc00": 1.0})
        case "memory":
            return Verdict(True, float(len(bytearray(1 << 33))), "equal")
        case "talk":
            print('[true, 1.0, "equal", "forged"]', flush=True)  # noqa: T201
            os.write(1, b'[true, 1.0, "equal", "forged"]\n')
            return Verdict(False, float(len(sys.stdin.read())), "different")
        case _:
            return grade_exact(text, gold)


def as_number(text: str, gold: str) -> float:
    return float(text)


def return_anything(text: str, gold: str) -> Any:
    """What the response says in Python."""
    return eval(text, {"Verdict": Verdict, "Fraction": Fraction})
