"""Whether what a program printed or returned is what a test expects, with a tolerance for floating-point numbers.

    both are integers                  equal to the last digit
    one is no integer                  |found - expected| <= tolerance · max(1, |expected|)
    … and an integer is expected       |found - expected| <= tolerance

The slack goes by the expected value alone, so no size of what was found widens it. NaN is within reach of nothing, and
infinity of itself alone. Only `int` and `float` have a tolerance: strings, booleans and all else are compared exactly.
In a text a number is an integer unless it has a decimal point or an exponent.
"""

import math
import operator
import re
from fractions import Fraction
from functools import partial
from itertools import zip_longest
from typing import Any

_JOINT = r"[^\s,;|()\[\]{}<>=]"
_NUMBER = re.compile(
    rf"(?<![\w.])(?<![0-9]{_JOINT})(?<![0-9]{_JOINT}[+-])(?<!\w[-+*/^])"
    r"([+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    rf"(?!\w|\.[0-9]|{_JOINT}[+-]?[0-9]|[-+*/^]\w)"
)
"""Not part of a word, and no part of `1.2.3`, `12:30.0`, `2024-01-02` or `2x-1.0`, which are no numbers."""
_DIGITS_OF_FLOATS = 400
"""No finite float has more before its point (1.8e308), so a longer integer is near none."""
Number = int | float


def close(found: Number, expected: Number, tolerance: float) -> bool:
    """Whether two numbers, neither of them a boolean, are equal by the rule of this module."""
    if found == expected:
        return True
    if not tolerance:
        return False
    if isinstance(found, float) and isinstance(expected, float):
        return abs(found - expected) <= tolerance * max(1.0, abs(expected)) < math.inf
    if isinstance(found, int) and isinstance(expected, int):
        return False
    if not math.isfinite(found if isinstance(found, float) else expected):
        return False
    # A float for a large integer would be another number, or too large.
    slack = tolerance if isinstance(expected, int) else tolerance * max(1.0, abs(expected))
    return abs(Fraction(found) - Fraction(expected)) <= slack


def same_value(found: Any, expected: Any, tolerance: float) -> bool:
    """Whether two values of lists, dictionaries and what JSON has besides are equal. `true` does not equal 1."""
    kinds = type(found), type(expected)
    if kinds == (list, list):
        return len(found) == len(expected) and all(
            same_value(mine, theirs, tolerance) for mine, theirs in zip(found, expected, strict=True)
        )
    if kinds == (dict, dict):
        return found.keys() == expected.keys() and all(
            same_value(found[key], theirs, tolerance) for key, theirs in expected.items()
        )
    if {*kinds} <= {int, float}:
        return close(found, expected, tolerance)
    return (kinds[0] is bool) == (kinds[1] is bool) and operator.eq(found, expected) is True


def same_text(found: str, expected: str, tolerance: float) -> bool:
    """Whether two texts are equal, numbers in them by the rule of this module.

    White space at the ends of lines, and empty lines at the end, do not count.
    """
    pairs = zip_longest(_lines(found), _lines(expected))
    return all(mine == theirs or _same_line(mine, theirs, tolerance) for mine, theirs in pairs)


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _same_line(found: str | None, expected: str | None, tolerance: float) -> bool:
    """Of lines that differ; None for one that is not there."""
    if found is None or expected is None or not tolerance:
        return False
    mine, theirs = _NUMBER.split(found), _NUMBER.split(expected)
    # What `split` gives is in turn text and a number.
    return (
        len(mine) == len(theirs)
        and mine[::2] == theirs[::2]
        and all(map(partial(_same_number, tolerance), mine[1::2], theirs[1::2]))
    )


def _same_number(tolerance: float, found: str, expected: str) -> bool:
    if found == expected:
        return True
    mine, theirs = _number(found), _number(expected)
    if mine is None or theirs is None or (isinstance(mine, int) and isinstance(theirs, int)):
        return False  # Nor is `007` the same as `7`: both may be names.
    return close(mine, theirs, tolerance)


def _number(text: str) -> Number | None:
    """None for a number that no float can hold. Takes time linear in the text, as it is the program's."""
    if "." in text or "e" in text or "E" in text:
        value = float(text)
        return value if math.isfinite(value) else None
    return int(text) if len(text) <= _DIGITS_OF_FLOATS else None
