"""`arithmetic`: an expression of given numbers that reaches a target, as in countdown. Nothing is ever evaluated by
Python: the expression is parsed, its nodes are checked one by one, and its value is an exact fraction.
"""

import ast
import json
import operator
import re
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple

from dapo.spec.tree.graders import ArithmeticGrader
from services.verifier.graders.equivalence import class_of_text
from services.verifier.graders.reading.extraction import final_answer
from services.verifier.graders.verdict import Grader, Verdict, right, wrong

_MAX_CHARACTERS = 300
_SIGNS = str.maketrans({"−": "-", "×": "*", "·": "*", "÷": "/", "$": " "})
_LATEX = re.compile(r"\\(?:(times|cdot)|(div)|left|right|[,;! ()])(?![a-zA-Z])")
_ALLOWED = re.compile(r"[0-9+\-*/(). \t\n]+")
_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


class _CountdownGold(NamedTuple):
    numbers: Counter[Fraction]
    target: Fraction


class _NotAnExpression(ValueError):
    """What stands there is no expression of + − * / and numbers."""


def make_arithmetic(options: ArithmeticGrader) -> Grader:
    def grade(text: str, gold: str) -> Verdict:
        wanted = _read_gold(gold)
        if wanted is None:
            return wrong("bad_gold")
        written = final_answer(text)
        if not written:
            return wrong("no_answer")
        try:
            value, used = _evaluate(_plain(written, wanted.target))
        except _NotAnExpression:
            return wrong("bad_expression", written)
        except ZeroDivisionError:
            return wrong("division_by_zero", written)
        used = _unsigned(used, wanted.numbers)
        if used != wanted.numbers if options.use_all else not used <= wanted.numbers:
            return wrong("wrong_numbers", written)
        return right("equal", written) if value == wanted.target else wrong("different", written)

    return Grader(grade, _gold_problem, lambda text: class_of_text(final_answer(text)))


def _gold_problem(gold: str) -> str:
    return "" if _read_gold(gold) else 'it is not {"numbers": […], "target": …} with finite numbers'


def _read_gold(gold: str) -> _CountdownGold | None:
    try:
        tree = json.loads(gold, parse_float=Fraction, parse_constant=_refuse)
        numbers = Counter(map(_number, tree["numbers"]))
        return _CountdownGold(numbers, _number(tree["target"])) if numbers else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(name)


def _number(value: object) -> Fraction:
    if isinstance(value, bool) or not isinstance(value, int | Fraction):
        raise TypeError(value)
    return Fraction(value)


def _plain(written: str, target: Fraction) -> str:
    """The expression alone: signs as Python has them, without "= target" behind it."""
    text = _LATEX.sub(lambda match: "*" if match[1] else "/" if match[2] else " ", written.translate(_SIGNS))
    expression, equals, result = text.strip().rstrip(".").partition("=")
    if len(text) > _MAX_CHARACTERS or not _ALLOWED.fullmatch(expression):
        raise _NotAnExpression
    if equals and (not _ALLOWED.fullmatch(result) or _evaluate(result)[0] != target):
        raise _NotAnExpression
    return expression


def _unsigned(used: Counter[Fraction], given: Counter[Fraction]) -> Counter[Fraction]:
    """A number with a minus before it is the number, where it was not given with its minus."""
    return Counter(number if number in given else abs(number) for number in used.elements())


def _evaluate(expression: str) -> tuple[Fraction, Counter[Fraction]]:
    """Value, and how often each number stands in it. Raises _NotAnExpression, ZeroDivisionError."""
    used: Counter[Fraction] = Counter()

    def value(node: ast.expr) -> Fraction:
        match node:
            case ast.BinOp(left, operation, right) if type(operation) in _OPERATORS:
                return _OPERATORS[type(operation)](value(left), value(right))
            case ast.UnaryOp(ast.USub(), ast.Constant(number)) if isinstance(number, int | float):
                found = -Fraction(str(number))
            case ast.Constant(number) if isinstance(number, int | float):
                found = Fraction(str(number))
            case _:
                raise _NotAnExpression
        used[found] += 1
        return found

    try:
        return value(ast.parse(expression.strip(), mode="eval").body), used
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise _NotAnExpression from error
