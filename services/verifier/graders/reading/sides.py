"""Answers as `math_verify` compares them: without units, their numbers read, both sides in one form."""

import re
from fractions import Fraction
from typing import NamedTuple

from services.verifier.graders.math_text import UnreadableAnswer, as_text, clean
from services.verifier.graders.reading.extraction import final_answer
from services.verifier.graders.reading.numbers import as_number, with_percent_sign, with_plain_numbers
from services.verifier.graders.reading.units import (
    currency,
    is_unit,
    may_be_unit,
    same_unit,
    split_area,
    split_measure,
    split_sign_of,
    split_time,
    split_unit,
    without_currency,
)
from services.verifier.graders.reading.variants import (
    Option,
    as_intervals,
    condition_of_set,
    in_one_name,
    is_interval,
    other_variable,
    read_given_option,
    read_option,
    with_round_brackets,
    without_condition,
)

_BOX = re.compile(r"\\f?box(?:ed)?(?![a-zA-Z])")
_HALVES_OF_A_DAY = ("am", "pm")


class Answer(NamedTuple):
    text: str
    """Cleaned, without its unit."""
    unit: str
    """That went; empty where there was none."""
    spelled: str
    """For comparison as text."""
    number: Fraction | None


def read_gold(gold: str) -> Answer:
    """A gold answer may count anything; only what makes another number of its number is no unit."""
    text = in_one_name(with_percent_sign(with_round_brackets(clean(final_answer(gold) or gold))))
    time, half = split_time(text)
    if half:
        return answer_of(time, half)
    bare, unit = split_unit(text)
    if is_unit(unit) or may_be_unit(unit):
        return answer_of(bare, unit)
    return answer_of(without_currency(text), currency(gold))


def read_answer(written: str) -> Answer:
    text = in_one_name(with_round_brackets(clean(written)))
    if _BOX.search(text):
        raise UnreadableAnswer("a box within the answer")
    bare, unit = split_measure(text)
    return answer_of(bare, unit) if unit else answer_of(without_currency(text), currency(written))


def without_unit_of(other: Answer, answer: Answer) -> Answer:
    """The other side's own unit is one, whatever it counts, and where its sign could be a letter."""
    if answer.unit or not other.unit:
        return answer
    time, half = split_time(answer.text)
    if half and other.unit in _HALVES_OF_A_DAY:
        return answer_of(time, half)
    bare, unit = split_unit(answer.text)
    if not (unit and same_unit(unit, other.unit)):
        bare = split_sign_of(answer.text, other.unit)
    return answer if bare == answer.text else answer_of(bare, other.unit)


def without_area(answer: Answer, gold: Answer) -> Answer:
    """Where the gold answer is a number alone: "18 m^2" is one of square metres, and no formula of m."""
    if answer.unit or gold.number is None:
        return answer
    bare = answer_of(*split_area(answer.text))
    return answer if bare.number is None else bare


def in_one_form(answer: Answer, gold: Answer) -> tuple[Answer, Answer]:
    """Both sides, where one of them says the same in another form."""
    if answer.number is not None and gold.number is not None:
        return answer, gold
    if gold.text.endswith("%"):
        answer = answer_of(with_percent_sign(answer.text), answer.unit)
    wanted = read_option(gold.text)
    given = read_given_option(answer.text)
    if given and wanted:
        return _of_option(given, answer, wanted, gold)
    if wanted:  # The library reads no "C)", whatever it is compared with.
        gold = answer_of(wanted.letter)
    given_bare, wanted_bare = without_condition(answer.text), without_condition(gold.text)
    if gold.number is not None and re.search(r"[0-9]", answer.text[len(given_bare) :]):
        given_bare = answer.text  # It names another number.
    if (given_bare == answer.text) != (wanted_bare == gold.text):
        answer, gold = answer_of(given_bare, answer.unit), answer_of(wanted_bare, gold.unit)
    answer, gold = _by_condition(answer, gold)
    intervals = as_intervals(answer.text), as_intervals(gold.text)
    if all(intervals) and not other_variable(answer.text, gold.text):
        return _rewritten(answer, intervals[0]), _rewritten(gold, intervals[1])
    answer, gold = _as_interval_beside(gold, answer), _as_interval_beside(answer, gold)
    return _rewritten(answer, answer.text), _rewritten(gold, gold.text)


def _by_condition(answer: Answer, gold: Answer) -> tuple[Answer, Answer]:
    """Sets of real numbers as their inequalities, and two of them as intervals: there the letter says nothing."""
    given, wanted = condition_of_set(answer.text), condition_of_set(gold.text)
    if given and wanted:
        return answer_of(as_intervals(given)), answer_of(as_intervals(wanted))
    return answer_of(given) if given else answer, answer_of(wanted) if wanted else gold


def _rewritten(one: Answer, text: str) -> Answer:
    """`one` as `text`, in numbers that the library can read."""
    text = with_plain_numbers(text)
    return one if text == one.text else answer_of(text, one.unit)


def _of_option(given: Option, answer: Answer, wanted: Option, gold: Answer) -> tuple[Answer, Answer]:
    """The letters alone, where they differ or one side has no more than its letter."""
    if given.letter == wanted.letter and not given.agrees(wanted):
        return answer, gold
    return answer_of(given.letter), answer_of(wanted.letter)


def _as_interval_beside(other: Answer, one: Answer) -> Answer:
    """`one`, as intervals where it is an inequality and the other side is none."""
    intervals = as_intervals(one.text) if is_interval(other.text) else ""
    return answer_of(intervals, one.unit) if intervals else one


def answer_of(text: str, unit: str = "") -> Answer:
    spelled = as_text(text)
    return Answer(text, unit, spelled, as_number(text))
