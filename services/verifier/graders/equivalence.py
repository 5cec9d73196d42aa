"""Classes of equal answers, as short texts: responses vote by them in maj@k.

A class is a normal form of one answer, so it needs no second answer to compare with. Numbers are equal as `agree` has
them: to so many decimals. Expressions with letters are equal where their values are at fixed points (Schwartz 1980);
they are told apart for certain, and equal ones are found as far as numerical evaluation goes. Units are left out, as
5 may be 5 km.
"""

import hashlib
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

_MAX_CHARACTERS = 200
_DIGITS = 12
"""Significant ones, of an expression's value at a point."""
_POINTS = 2


def class_of_text(text: str) -> str:
    """Equal for equal texts alone; empty for an empty one. A long text is told by its digest."""
    return text if len(text) <= _MAX_CHARACTERS else hashlib.blake2b(text.encode(errors="replace")).hexdigest()


def class_of_number(number: Fraction, digits: int | None = None) -> str:
    """Exactly, or rounded to `digits` decimals where the number is large enough for that to be within 1 %."""
    rounded = number if digits is None else round(number, digits)
    value = number if digits is None or abs(rounded) * 10**digits < 100 else rounded
    return class_of_text(f"={value}")


def class_of_expression(parsed: Any, digits: int, marks: Sequence[str] = ()) -> str:
    """Of a sympy object, as math-verify makes them, and what it does not show: capitals, the order of factors.

    May raise what sympy raises.
    """
    return class_of_text("|".join((_normal(parsed, digits), *marks)))


def _normal(parsed: Any, digits: int) -> str:
    import sympy
    from latex2sympy2_extended.sets import FiniteSet

    if isinstance(parsed, (sympy.FiniteSet, FiniteSet)):
        return "{" + ",".join(sorted({_normal(one, digits) for one in parsed.args})) + "}"
    if isinstance(parsed, sympy.Interval):
        ends = f"{_normal(parsed.start, digits)},{_normal(parsed.end, digits)}"
        return f"{'(' if parsed.left_open else '['}{ends}{')' if parsed.right_open else ']'}"
    if isinstance(parsed, sympy.Union):
        return "|".join(sorted(_normal(one, digits) for one in parsed.args))
    if isinstance(parsed, (sympy.Tuple, tuple, list)):
        return "(" + ",".join(_normal(one, digits) for one in parsed) + ")"
    if isinstance(parsed, sympy.MatrixBase):
        return f"{parsed.shape}" + ",".join(_normal(one, digits) for one in parsed)
    if isinstance(parsed, sympy.Eq) and isinstance(parsed.lhs, sympy.Symbol) and not parsed.rhs.free_symbols:
        return _normal(parsed.rhs, digits)
    if isinstance(parsed, sympy.Expr):
        return _value(parsed, digits)
    return str(parsed)


def _value(expression: Any, digits: int) -> str:
    """A number as `class_of_number` has it; with letters, the letters and the values at _POINTS points."""
    import sympy

    letters = sorted(expression.free_symbols, key=str)
    if not letters:
        found = expression.doit().evalf(30)
        if found.is_real and found.is_finite:
            return class_of_number(Fraction(str(found)), digits)
        return str(found.evalf(_DIGITS)) if found.is_number else str(expression)
    values = []
    for point in range(_POINTS):
        at = {letter: sympy.Rational(1009 + 97 * number + 31 * point, 613) for number, letter in enumerate(letters)}
        values.append(str(expression.doit().subs(at).evalf(_DIGITS)))
    return f"{','.join(map(str, letters))}:{';'.join(values)}"
