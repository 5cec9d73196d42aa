"""`math_verify`: mathematical equivalence by the library math-verify (Hugging Face, Apache-2.0).

The answer is found by `extraction`. Numbers are compared here, exactly or to so many decimals; only what is no number
goes to the library, and what its rules are too generous with is refused before: a letter beside a number ("4t" is no
4 with a unit), another base ("10_2" is not 10), anagrams ("seat" is not "east").
The library's own alarms are off: the pool kills a grading past its deadline.
"""

import logging
import re
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

from dapo.spec.tree.graders import MathVerifyGrader
from services.verifier.graders.equivalence import class_of_expression, class_of_number, class_of_text
from services.verifier.graders.golds import compares, mathematical_problem
from services.verifier.graders.math_text import (
    UnreadableAnswer,
    agree,
    as_number,
    as_text,
    as_word,
    base_of,
    clean,
    has_text,
    is_costly,
    names_no_number,
    other_letters,
    with_percent_sign,
)  # fmt: skip
from services.verifier.graders.reading.extraction import final_answer
from services.verifier.graders.reading.structure import (
    equations,
    is_set,
    is_tuple,
    items,
    members,
    named_values,
    other_marks,
    ratio,
    states_more,
)
from services.verifier.graders.reading.units import (
    currency,
    is_unit,
    may_be_unit,
    same_unit,
    split_measure,
    split_sign_of,
    split_unit,
    without_currency,
)
from services.verifier.graders.reading.variants import (
    Option,
    as_intervals,
    is_interval,
    other_variable,
    read_given_option,
    read_option,
    with_round_brackets,
    without_condition,
)
from services.verifier.graders.verdict import Grader, Verdict, right, wrong

_CACHED_GOLDS = 1024
_CACHED_EXPRESSIONS = 4096
_BOX = re.compile(r"\\f?box(?:ed)?(?![a-zA-Z])")


class _Answer(NamedTuple):
    text: str
    """Cleaned, without its unit."""
    unit: str
    """That went; empty where there was none."""
    spelled: str
    """For comparison as text."""
    number: Fraction | None


def make_math_verify(options: MathVerifyGrader) -> Grader:
    read_gold = lru_cache(_CACHED_GOLDS)(_read_gold)
    library = _Library()

    def grade(text: str, gold: str) -> Verdict:
        try:
            answer = _read(final_answer(text))
        except UnreadableAnswer as error:
            return wrong("unreadable", str(error))
        if not answer.spelled:
            return wrong("no_answer")
        try:
            wanted = read_gold(gold)
            given, wanted = _without_unit_of(wanted, answer), _without_unit_of(answer, wanted)
            given, wanted = _in_one_form(given, wanted)
            return _judge(given, wanted, library, options.digits)
        except UnreadableAnswer:
            return wrong("bad_gold", answer.text)

    def classify(text: str) -> str:
        try:
            return _class_of(_read(final_answer(text)), library, options.digits)
        except UnreadableAnswer:
            return ""

    return compares(grade, mathematical_problem(grade, _stating), classify)


def _stating(gold: str) -> str:
    """A response that gives the gold answer."""
    return gold if final_answer(gold) else f"\\boxed{{{gold}}}"


def _read_gold(gold: str) -> _Answer:
    """A gold answer may count anything; only what makes another number of its number is no unit."""
    text = with_percent_sign(with_round_brackets(clean(final_answer(gold) or gold)))
    bare, unit = split_unit(text)
    if is_unit(unit) or may_be_unit(unit):
        return _answer(bare, unit)
    return _answer(without_currency(text), currency(gold))


def _read(written: str) -> _Answer:
    text = with_round_brackets(clean(written))
    if _BOX.search(text):
        raise UnreadableAnswer("a box within the answer")
    bare, unit = split_measure(text)
    return _answer(bare, unit) if unit else _answer(without_currency(text), currency(written))


def _without_unit_of(other: _Answer, answer: _Answer) -> _Answer:
    """The other side's own unit is one, whatever it counts, and where its sign could be a letter."""
    if answer.unit or not other.unit:
        return answer
    bare, unit = split_unit(answer.text)
    if not (unit and same_unit(unit, other.unit)):
        bare = split_sign_of(answer.text, other.unit)
    return answer if bare == answer.text else _answer(bare, other.unit)


def _in_one_form(answer: _Answer, gold: _Answer) -> tuple[_Answer, _Answer]:
    """Both sides, where one of them says the same in another form."""
    if answer.number is not None and gold.number is not None:
        return answer, gold
    if gold.text.endswith("%"):
        answer = _answer(with_percent_sign(answer.text), answer.unit)
    wanted = read_option(gold.text)
    given = read_given_option(answer.text)
    if given and wanted:
        return _of_option(given, answer, wanted, gold)
    if wanted:  # The library reads no "C)", whatever it is compared with.
        gold = _answer(wanted.letter)
    given_bare, wanted_bare = without_condition(answer.text), without_condition(gold.text)
    if gold.number is not None and re.search(r"[0-9]", answer.text[len(given_bare) :]):
        given_bare = answer.text  # It names another number.
    if (given_bare == answer.text) != (wanted_bare == gold.text):
        answer, gold = _answer(given_bare, answer.unit), _answer(wanted_bare, gold.unit)
    intervals = as_intervals(answer.text), as_intervals(gold.text)
    if all(intervals) and not other_variable(answer.text, gold.text):
        return _answer(intervals[0], answer.unit), _answer(intervals[1], gold.unit)
    return _as_interval_beside(gold, answer), _as_interval_beside(answer, gold)


def _of_option(given: Option, answer: _Answer, wanted: Option, gold: _Answer) -> tuple[_Answer, _Answer]:
    """The letters alone, where they differ or one side has no more than its letter."""
    if given.letter == wanted.letter and not given.agrees(wanted):
        return answer, gold
    return _answer(given.letter), _answer(wanted.letter)


def _as_interval_beside(other: _Answer, one: _Answer) -> _Answer:
    """`one`, as intervals where it is an inequality and the other side is none."""
    intervals = as_intervals(one.text) if is_interval(other.text) else ""
    return _answer(intervals, one.unit) if intervals else one


def _answer(text: str, unit: str = "") -> _Answer:
    spelled = as_text(text)
    return _Answer(text, unit, spelled, as_number(text))


def _judge(answer: _Answer, gold: _Answer, library: "_Library", digits: int) -> Verdict:
    if answer.unit and gold.unit and not same_unit(answer.unit, gold.unit):
        equal = False
    elif answer.number is not None and gold.number is not None:
        equal = agree(answer.number, gold.number, digits)
    elif answer.spelled == gold.spelled:
        equal = True
    elif ratio(gold.text) or ratio(answer.text):
        equal = ratio(gold.text) == ratio(answer.text)
    elif as_word(gold.spelled):
        equal = as_word(answer.spelled) == as_word(gold.spelled)
    elif (
        names_no_number(answer.text)
        or _has_other_words(answer, gold)
        or other_letters(answer.text, gold.text)
        or other_marks(answer.text, gold.text)
        or (gold.number is not None and states_more(answer.text))
        or (_TWO_CAPITALS.fullmatch(gold.spelled) and _TWO_CAPITALS.fullmatch(answer.spelled))
        or base_of(answer.text) not in ("", base_of(gold.text))
    ):
        equal = False
    elif is_costly(gold.text):
        return wrong("bad_gold", answer.text)
    elif is_costly(answer.text):
        return wrong("too_complex", answer.text)
    else:
        return _verify(answer, gold, library, digits)
    return right("equal", answer.text) if equal else wrong("different", answer.text)


_TWO_CAPITALS = re.compile(r"[A-Z]{2}")
"""Points, codes, initials: their order counts. Equal ones are equal in spelling."""


def _has_other_words(answer: _Answer, gold: _Answer) -> bool:
    """Words that are no unit, behind a number or where a number is wanted."""
    return bool(split_unit(answer.text)[1]) or (gold.number is not None and has_text(answer.text))


def _verify(answer: _Answer, gold: _Answer, library: "_Library", digits: int) -> Verdict:
    wanted, given = _in_order(gold.text, answer.text)
    expected = library.parse(wanted)
    if expected is None:
        return wrong("bad_gold", answer.text)
    found = library.parse(given)
    if found is None:
        return wrong("unparsable", answer.text)
    if (is_set(wanted) and is_tuple(given)) or (is_tuple(wanted) and is_set(given)):
        return wrong("different", answer.text)
    if not _consistent(given, library, digits):
        return wrong("different", answer.text)
    equal = library.verify(expected, found, digits) and _numerically_plausible(expected, found, digits)
    return right("equal", answer.text) if equal else wrong("different", answer.text)


def _in_order(gold: str, answer: str) -> tuple[str, str]:
    """Where the gold answer names values, x = 2 and y = 3, and the answer does not: both as tuples."""
    values = named_values(gold)
    if not values or "=" in answer or is_set(answer):
        return (f"({', '.join(values)})" if values and "=" not in answer else gold), answer
    return f"({', '.join(values)})", f"({', '.join(members(answer, '(', ')') or items(answer))})"


def _consistent(answer: str, library: "_Library", digits: int) -> bool:
    """Whether no chain of equations in it says that unequal numbers are equal, as "4 = 5" does."""
    near = _near if "%" in answer else _nearly_equal
    for chain in equations(answer):
        numbers = [number for side in chain if (number := _number(library, side)) is not None]
        if not all(near(numbers[0], other, digits) for other in numbers):
            return False
    return True


def _number(library: "_Library", side: str) -> Fraction | None:
    number = as_number(side)
    return _value(library.parse(side)) if number is None and not has_text(side) else number


def _value(parsed: Any) -> Fraction | None:
    """Of a real number, to 30 digits; None of anything else."""
    try:
        return Fraction(str(parsed.doit().evalf(30)))
    except (AttributeError, ArithmeticError, TypeError, ValueError):
        return None


def _numerically_plausible(gold: Any, answer: Any, digits: int) -> bool:
    """Where both are real numbers: the library takes differences below 1e-15 for 0, which small numbers are too."""
    a, b = _value(gold), _value(answer)
    return a is None or b is None or _near(a, b, digits)


def _near(a: Fraction, b: Fraction, digits: int) -> bool:
    """Also where one of them is in percent."""
    return _nearly_equal(a, b, digits) or a == 100 * b or b == 100 * a


def _nearly_equal(a: Fraction, b: Fraction, digits: int) -> bool:
    return agree(a, b, digits) or (a != 0 and abs(a - b) < abs(a) / 10**20)


def _class_of(answer: _Answer, library: "_Library", digits: int) -> str:
    """By the rules of `_judge`, as far as one answer shows them."""
    bare, unit = split_unit(answer.text)
    if unit and may_be_unit(unit):
        answer = _answer(bare)
    if answer.number is not None:
        return class_of_number(answer.number, digits)
    option = read_option(answer.text)
    if option:
        return class_of_text(option.letter)
    text = as_intervals(answer.text) or with_percent_sign(without_condition(answer.text))
    if as_word(as_text(text)) or names_no_number(text) or base_of(text) or is_costly(text):
        return class_of_text(as_word(as_text(text)) or as_text(text))
    parsed = library.parse(text)
    return class_of_text(as_text(text)) if parsed is None else class_of_expression(parsed, digits)


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
        self.parse = lru_cache(_CACHED_EXPRESSIONS)(self._read)

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
