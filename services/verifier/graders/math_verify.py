"""`math_verify`: mathematical equivalence by the library math-verify (Hugging Face, Apache-2.0).

The answer is found by `extraction`. Numbers are compared here, exactly or to so many decimals; only what is no number
goes to the library, and what its rules are too generous with is refused before: a letter beside a number ("4t" is no
4 with a unit), another base ("10_2" is not 10), anagrams ("seat" is not "east").
The library's own alarms are off: the pool kills a grading past its deadline.
"""

import logging
import re
from collections.abc import Callable, Iterable
from fractions import Fraction
from functools import lru_cache
from typing import Any

from dapo.spec.tree.graders import MathVerifyGrader
from services.verifier.graders.equivalence import class_of_expression, class_of_number, class_of_text
from services.verifier.graders.golds import compares, mathematical_problem
from services.verifier.graders.math_text import (
    UnreadableAnswer,
    as_text,
    as_word,
    base_of,
    has_text,
    is_costly,
    other_letters,
    upper_letters,
)
from services.verifier.graders.reading.extraction import final_answer
from services.verifier.graders.reading.numbers import (
    agree,
    as_number,
    is_long_list,
    names_no_number,
    number_list,
    with_percent_sign,
    with_plain_numbers,
)
from services.verifier.graders.reading.sides import (
    Answer,
    answer_of,
    in_one_form,
    read_answer,
    read_gold,
    without_area,
    without_unit_of,
)
from services.verifier.graders.reading.structure import (
    by_position,
    equations,
    is_set,
    is_tuple,
    items,
    members,
    named_values,
    other_marks,
    other_order,
    products,
    ratio,
    states_more,
)
from services.verifier.graders.reading.units import may_be_unit, same_unit, split_time, split_unit
from services.verifier.graders.reading.variants import as_intervals, condition_of_set, read_option, without_condition
from services.verifier.graders.verdict import Grader, Verdict, right, wrong

_IMAGINARY = {"i"}
_CACHED_GOLDS = 1024
_CACHED_EXPRESSIONS = 4096


def make_math_verify(options: MathVerifyGrader) -> Grader:
    gold_of = lru_cache(_CACHED_GOLDS)(read_gold)
    library = _Library()

    def grade(text: str, gold: str) -> Verdict:
        try:
            answer = read_answer(final_answer(text))
        except UnreadableAnswer as error:
            return wrong("unreadable", str(error))
        if not answer.spelled:
            return wrong("no_answer")
        try:
            wanted = gold_of(gold)
            given, wanted = without_unit_of(wanted, answer), without_unit_of(answer, wanted)
            given, wanted = in_one_form(without_area(given, wanted), wanted)
            return _judge(given, wanted, library, options.digits)
        except UnreadableAnswer:
            return wrong("bad_gold", answer.text)

    def classify(text: str) -> str:
        try:
            return _class_of(read_answer(final_answer(text)), library, options.digits)
        except UnreadableAnswer:
            return ""

    return compares(grade, mathematical_problem(grade, _stating), classify)


def _stating(gold: str) -> str:
    """A response that gives the gold answer."""
    return gold if final_answer(gold) else f"\\boxed{{{gold}}}"


def _judge(answer: Answer, gold: Answer, library: "_Library", digits: int) -> Verdict:
    if answer.unit and gold.unit and not same_unit(answer.unit, gold.unit):
        equal = False
    elif answer.number is not None and gold.number is not None:
        equal = agree(answer.number, gold.number, digits)
    elif answer.spelled == gold.spelled:
        equal = True
    elif (lists := _numbers_of(answer, gold)) is not None:
        equal = _equal_lists(*lists, digits)
    elif ratio(gold.text) or ratio(answer.text):
        equal = ratio(gold.text) == ratio(answer.text)
    elif as_word(gold.spelled):
        equal = as_word(answer.spelled) == as_word(gold.spelled)
    elif (
        names_no_number(answer.text)
        or _has_other_words(answer, gold)
        or other_letters(answer.text, gold.text)
        or other_marks(answer.text, gold.text)
        or other_order(answer.text, gold.text)
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


_NumberList = tuple[str, list[Fraction]] | None


def _numbers_of(answer: Answer, gold: Answer) -> tuple[_NumberList, _NumberList] | None:
    """Both as lists of numbers, where they need no library: of one kind, or one of them so long that it is no other."""
    given, wanted = number_list(answer.text), number_list(gold.text)
    same_kind = given is not None and wanted is not None and given[0] == wanted[0]
    return (given, wanted) if same_kind or is_long_list(given) or is_long_list(wanted) else None


def _equal_lists(given: _NumberList, wanted: _NumberList, digits: int) -> bool:
    if given is None or wanted is None or given[0] != wanted[0] or len(given[1]) != len(wanted[1]):
        return False
    return all(agree(one, other, digits) for one, other in zip(given[1], wanted[1], strict=True))


_TWO_CAPITALS = re.compile(r"[A-Z]{2}")
"""Points, codes, initials: their order counts. Equal ones are equal in spelling."""


def _has_other_words(answer: Answer, gold: Answer) -> bool:
    """Words that are no unit, behind a number or where a number is wanted."""
    return bool(split_unit(answer.text)[1]) or (gold.number is not None and has_text(answer.text))


def _verify(answer: Answer, gold: Answer, library: "_Library", digits: int) -> Verdict:
    wanted, given = _in_order(gold.text, answer.text)
    if not given:
        return wrong("different", answer.text)
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
    """Both as tuples, where a side names values, x = 2 and y = 3: values without names come in the gold answer's order,
    names beside values without names in their usual one. The answer is empty where nobody can tell which is meant.
    """
    wanted, given = named_values(gold), named_values(answer)
    if wanted and given:
        same = wanted.keys() == given.keys()
        return (_tuple(wanted.values()), _tuple(given[name] for name in wanted)) if same else (gold, answer)
    if wanted:
        if "=" in answer or is_set(answer):
            return gold if "=" in answer else _tuple(wanted.values()), answer
        return _tuple(wanted.values()), _tuple(members(answer, "(", ")") or items(answer))
    listed = members(gold, "(", ")") or ([] if is_set(gold) else items(gold))
    if not given or len(listed) < 2 or "=" in gold:
        return gold, answer
    values = by_position(given)
    return _tuple(listed), _tuple(values) if values else ""


def _tuple(values: Iterable[str]) -> str:
    return f"({', '.join(values)})"


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


def _class_of(answer: Answer, library: "_Library", digits: int) -> str:
    """By the rules of `_judge`, as far as one answer shows them."""
    time, half = split_time(answer.text)
    if half:
        return class_of_text(as_text(f"{time} {half}"))
    bare, unit = split_unit(answer.text)
    if unit and may_be_unit(unit):
        answer = answer_of(bare)
    if answer.number is not None:
        return class_of_number(answer.number, digits)
    option = read_option(answer.text)
    if option:
        return class_of_text(option.letter)
    text = condition_of_set(answer.text) or without_condition(answer.text)
    text = with_plain_numbers(as_intervals(text) or with_percent_sign(text))
    values = by_position(named_values(text))
    text = _tuple(values) if values else text
    if as_word(as_text(text)) or names_no_number(text) or base_of(text) or is_costly(text):
        return class_of_text(as_word(as_text(text)) or as_text(text))
    parsed = library.parse(text)
    if parsed is None:
        return class_of_text(as_text(text))
    if _letters(parsed) == _IMAGINARY:
        parsed = library.with_imaginary_unit(parsed)
    letters = {letter.lower() for letter in _letters(parsed)}
    marks = [letter for letter in upper_letters(text) if letter.lower() in letters]
    return class_of_expression(parsed, digits, (*marks, *map(str, products(text))))


class _Library:
    """math-verify, its alarms off. Imports sympy: most of a second, and some 60 MiB."""

    def __init__(self) -> None:
        from latex2sympy2_extended.math_normalization import NormalizationConfig
        from math_verify import LatexExtractionConfig, parse, verify
        from sympy import I, nan, zoo

        logging.getLogger("math_verify").setLevel(logging.ERROR)  # It warns that its alarms are off.
        normalisation = NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="all", equations=False
        )
        self._parse: Callable[..., list[Any]] = parse
        self._verify: Callable[..., bool] = verify
        self._configuration = [LatexExtractionConfig(normalization_config=normalisation)]
        self._undefined = (nan, zoo)
        self._imaginary_unit = I
        self.parse = lru_cache(_CACHED_EXPRESSIONS)(self._read)

    def _read(self, text: str) -> Any:
        """A sympy object; None where there is none, or it divides by zero."""
        found = self._parse(
            f"\\boxed{{{text}}}", self._configuration, fallback_mode="no_fallback", parsing_timeout=None
        )
        if not found or (hasattr(found[0], "has") and found[0].has(*self._undefined)):
            return None
        return found[0]

    def verify(self, gold: Any, answer: Any, digits: int) -> bool:
        if _IMAGINARY in (_letters(gold), _letters(answer)):
            gold, answer = self.with_imaginary_unit(gold), self.with_imaginary_unit(answer)
        return bool(self._verify(gold, answer, float_rounding=digits, timeout_seconds=None))

    def with_imaginary_unit(self, parsed: Any) -> Any:
        """Of what has no other letter, or is compared with such: there i is the root of -1."""
        try:
            return parsed.subs({letter: self._imaginary_unit for letter in parsed.free_symbols if str(letter) == "i"})
        except (AttributeError, TypeError, ValueError):  # It is in an order, as the end of an interval.
            return parsed


def _letters(parsed: Any) -> set[str]:
    return {str(letter) for letter in getattr(parsed, "free_symbols", ())}
