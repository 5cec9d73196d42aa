"""`math_verify`: mathematical equivalence by the library math-verify (Hugging Face, Apache-2.0).

The answer is found by `extraction`. Numbers are compared here, exactly or to so many decimals; only what is no number
goes to the library, and what its rules are too generous with is refused before: a letter beside a number ("4t" is no
4 with a unit), another base ("10_2" is not 10), anagrams ("seat" is not "east").
The library's own alarms are off: the pool kills a grading past its deadline.
"""

import logging
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from dapo.spec.graders import MathVerifyGrader
from services.verifier.graders.extraction import final_answer
from services.verifier.graders.mathematics import (
    Unreadable,
    agree,
    as_number,
    as_text,
    as_word,
    base_of,
    clean,
    is_costly,
    without_unit,
)  # fmt: skip
from services.verifier.graders.verdict import Grade, Verdict, right, wrong

_GOLDS = 1024
_PARSED = 4096


class _Answer(NamedTuple):
    text: str
    """Cleaned, without its unit."""
    spelled: str
    """For comparison as text."""
    number: Fraction | None


def make_math_verify(options: MathVerifyGrader) -> Grade:
    read_gold = lru_cache(_GOLDS)(_read_gold)
    library = _Library()

    def grade(text: str, gold: str) -> Verdict:
        if not gold.strip():
            return wrong("empty_gold")
        written = final_answer(text)
        try:
            answer = _read(written)
        except Unreadable as error:
            return wrong("unreadable", str(error))
        if not answer.spelled:
            return wrong("no_answer")
        try:
            return _judge(answer, read_gold(gold), library, options.digits)
        except Unreadable:
            return wrong("bad_gold", answer.text)

    return grade


def _read_gold(gold: str) -> _Answer:
    return _read(final_answer(gold) or gold)


def _read(written: str) -> _Answer:
    text = without_unit(clean(written))
    return _Answer(text, as_text(text), as_number(text))


def _judge(answer: _Answer, gold: _Answer, library: "_Library", digits: int) -> Verdict:
    if answer.number is not None and gold.number is not None:
        equal = agree(answer.number, gold.number, digits)
    elif answer.spelled == gold.spelled:
        equal = True
    elif as_word(gold.spelled):
        equal = as_word(answer.spelled) == as_word(gold.spelled)
    elif base_of(answer.text) not in ("", base_of(gold.text)):
        equal = False
    elif is_costly(gold.text):
        return wrong("bad_gold", answer.text)
    elif is_costly(answer.text):
        return wrong("too_complex", answer.text)
    else:
        return _verify(answer, gold, library, digits)
    return right("equal", answer.text) if equal else wrong("different", answer.text)


def _verify(answer: _Answer, gold: _Answer, library: "_Library", digits: int) -> Verdict:
    expected = library.parse(gold.text)
    if expected is None:
        return wrong("bad_gold", answer.text)
    found = library.parse(answer.text)
    if found is None:
        return wrong("unparsable", answer.text)
    equal = library.verify(expected, found, digits) and _numerically_plausible(expected, found, digits)
    return right("equal", answer.text) if equal else wrong("different", answer.text)


def _numerically_plausible(gold: Any, answer: Any, digits: int) -> bool:
    """Where both are real numbers: the library takes differences below 1e-15 for 0, which small numbers are too."""
    try:
        a, b = Fraction(str(gold.doit().evalf(30))), Fraction(str(answer.doit().evalf(30)))
    except (AttributeError, ArithmeticError, TypeError, ValueError):
        return True
    return agree(a, b, digits) or (a != 0 and abs(a - b) < abs(a) / 10**20) or a == 100 * b or b == 100 * a


class _Library:
    """math-verify, its alarms off. Imports sympy: most of a second, and some 60 MiB."""

    def __init__(self) -> None:
        from latex2sympy2_extended.math_normalization import NormalizationConfig
        from math_verify import LatexExtractionConfig, parse, verify
        from sympy import nan, zoo

        logging.getLogger("math_verify").setLevel(logging.ERROR)  # It warns that its alarms are off.
        normalisation = NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
        )
        self._parse: Callable[..., list[Any]] = parse
        self._verify: Callable[..., bool] = verify
        self._configuration = [LatexExtractionConfig(normalization_config=normalisation)]
        self._undefined = (nan, zoo)
        self.parse = lru_cache(_PARSED)(self._read)

    def _read(self, text: str) -> Any:
        """A sympy object; None where there is none, or it holds a division by zero."""
        found = self._parse(
            f"\\boxed{{{text}}}", self._configuration, fallback_mode="no_fallback", parsing_timeout=None
        )
        if not found or (hasattr(found[0], "has") and found[0].has(*self._undefined)):
            return None
        return found[0]

    def verify(self, gold: Any, answer: Any, digits: int) -> bool:
        return bool(self._verify(gold, answer, float_rounding=digits, timeout_seconds=None))
