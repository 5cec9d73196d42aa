"""The structure of a cleaned answer: sets and tuples, lists of named values, chains of equations.

math-verify ignores it in part: it takes a set for a tuple, drops the names of values, and reads only the last side
of an equation.
"""

import re
from fractions import Fraction

_VALUE = re.compile(r"\s*([a-zA-Z](?:_\{?[0-9a-zA-Z]\}?)?)\s*=\s*([^=<>]+)")
_NAME = re.compile(r"[a-zA-Z](?:_\{?[0-9a-zA-Z]\}?)?")
_ORDERS = {"bm": "mb", "hk": "hk"}
"""Of slope and intercept, and of a centre or vertex."""
_AND = re.compile(r"\\text\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b")
_NOT_EQUALS = re.compile(r"[<>:!]=|\\(?:neq?|leq?|geq?|not)\b|[<>]|_")
_OPENING, _CLOSING = "([{", ")]}"
_MARKS = (
    re.compile(r"'"),
    re.compile(r"\^\s*\{?\s*(?:T|\\top|\\intercal)(?![a-zA-Z])"),
    re.compile(r'"'),
    re.compile(r"\\(?:overline|bar)(?![a-zA-Z])"),
)
"""Primes, transposes, inches and bars."""
_RELATIONS = re.compile(r"\\(?:approx|equiv|sim|p?mod|bmod|n(?:eq?|ot))(?![a-zA-Z])|!=|≈|≡")
_LABELLED = re.compile(r"[0-9].*(?:\\text|\\mbox|,|;|\b[a-z]{3,}\b).*(?:=|\\[lg]eq?(?![a-zA-Z])|[<>])", re.DOTALL)
_TWO_NUMBERS = re.compile(r"[0-9][^0-9]*(?<![\\a-zA-Z])[a-z]{3,}(?![a-zA-Z])[^0-9]*[0-9]")
_MAX_RELATED = 200
_INVERTED = r"\^\s*\{?\s*(?:-\s*1|T(?![a-zA-Z])|\\top|\\intercal)\s*\}?"
_FACTOR = (
    r"(?:[A-Z](?![a-z])|\\(?:vec|hat|mathbf|mathbb|mathcal|overrightarrow)(?:\s*\{[^{}]*\}|\s+[a-zA-Z]))"
    rf"(?:'|_\{{?\w+\}}?|{_INVERTED}|\^\s*\{{?[0-9]\}}?)*"
)
_CHAIN = re.compile(rf"{_FACTOR}(?:\s*(?:\\times(?![a-zA-Z])|\\cdot(?![a-zA-Z]))?\s*{_FACTOR})+")
_IN_CHAIN = re.compile(_FACTOR)
_ORDERED = re.compile(rf"\\times|{_INVERTED}")
_MARKUP = re.compile(r"[\s{}]+")
_RATIO = re.compile(r"\s*[0-9]+(?:\.[0-9]+)?(?:\s*:\s*[0-9]+(?:\.[0-9]+)?)+\s*")


def split_outside(text: str, separator: str) -> list[str]:
    """At each `separator`, one character, that stands in no bracket."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if character == separator and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [*parts, text[start:]]


def items(text: str) -> list[str]:
    """Of a list, as "1, 2 and 3" is one."""
    return [item.strip() for item in split_outside(_AND.sub(",", text), ",") if item.strip()]


def members(text: str, opening: str, closing: str) -> list[str]:
    """Of a list in such brackets; empty where it is none."""
    if not (text.startswith(opening) and text.endswith(closing)):
        return []
    inner = text[len(opening) : -len(closing)]
    depth = 0
    for character in inner:
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth < 0:
            return []
    found = items(inner)
    return found if len(found) > 1 else []


def longest_list(text: str) -> int:
    """Items of the longest list, at whatever depth."""
    counts, longest = [1], 1
    for character in text:
        if character in _OPENING:
            counts.append(1)
        elif character in _CLOSING and len(counts) > 1:
            counts.pop()
        elif character == ",":
            counts[-1] += 1
            longest = max(longest, counts[-1])
    return longest


def is_set(text: str) -> bool:
    return bool(members(text, "\\{", "\\}"))


def is_tuple(text: str) -> bool:
    return bool(members(text, "(", ")"))


def named_values(text: str) -> dict[str, str]:
    """Values by name of a list of two names or more, "x = 2, y = 3" or "(x, y) = (2, 3)"; empty where it is none."""
    names, sign, values = (side.strip() for side in text.partition("="))
    listed = members(names, "(", ")"), members(values, "(", ")")
    if sign and len(listed[0]) == len(listed[1]) > 1 and all(_NAME.fullmatch(name) for name in listed[0]):
        return dict(zip(listed[0], listed[1], strict=True))
    parts = members(text, "(", ")") or items(text)
    found = [_VALUE.fullmatch(item) for item in parts]
    named = {match[1]: match[2].strip() for match in found if match}
    return named if len(named) > 1 and len(named) == len(found) else {}


def by_position(named: dict[str, str]) -> list[str]:
    """The values in the order that their names have where positions are meant: x before y, a before b, x_1 before x_2.

    Empty where the names have no such order and are not written in that of the alphabet.
    """
    names = list(named)
    letters = sorted({name[0] for name in names})
    kinds = {name[0].isupper() for name in names}
    if "".join(letters) in _ORDERS:
        order = sorted(names, key=_ORDERS["".join(letters)].index)
    elif len(kinds) == 1 and (len(letters) == 1 or ord(letters[-1]) - ord(letters[0]) == len(names) - 1):
        order = sorted(names)
    else:
        order = names if names == sorted(names) else []
    return [named[name] for name in order]


def equations(text: str) -> list[list[str]]:
    """The sides of each chain of equations in a list; none of what holds an inequality or an index."""
    chains = [split_outside(item, "=") for item in items(text) if not _NOT_EQUALS.search(item)]
    return [[side.strip() for side in chain] for chain in chains if len(chain) > 1]


def other_marks(answer: str, gold: str) -> bool:
    """Whether marks differ that the library drops: f'(x) is not f(x), and 5'6 is not 56."""
    found, wanted = answer.rpartition("=")[2], gold.rpartition("=")[2]
    return any(len(mark.findall(found)) != len(mark.findall(wanted)) for mark in _MARKS)


def other_order(answer: str, gold: str) -> bool:
    """Whether capitals or vectors are multiplied in another order, where they need not be numbers: A \\times B is not
    B \\times A, P^{-1}AP not PAP^{-1}, AB - BA not BA - AB, nor 0."""
    if len(answer) > _MAX_RELATED or len(gold) > _MAX_RELATED:
        return False
    found, wanted = products(answer), products(gold)
    if _stands_in_both_orders(found) or _stands_in_both_orders(wanted):
        return True
    return bool(found and wanted) and found != wanted


def products(text: str) -> list[tuple[str, ...]]:
    """Those whose order counts, each as its factors."""
    chains = [
        (match[0], tuple(_MARKUP.sub("", factor) for factor in _IN_CHAIN.findall(match[0])))
        for match in _CHAIN.finditer(text)
    ]
    known = {factors for _, factors in chains}
    return sorted(
        factors for chain, factors in chains
        if _ORDERED.search(chain) or (factors != factors[::-1] and factors[::-1] in known)
    )  # fmt: skip


def _stands_in_both_orders(found: list[tuple[str, ...]]) -> bool:
    """Whether a product does: the library takes the difference for 0."""
    return any(factors != factors[::-1] and factors[::-1] in found for factors in found)


def states_more(answer: str) -> bool:
    """Whether an answer that should be a number relates it to another: "5 \\approx 6", "5 where x = 6"."""
    if len(answer) > _MAX_RELATED:
        return False  # It is too costly, and so no number either.
    return any(pattern.search(answer) for pattern in (_RELATIONS, _LABELLED, _TWO_NUMBERS))


def ratio(answer: str) -> tuple[Fraction, ...] | None:
    """The terms of 2:3:4 divided by their first one, or None: no ratio is a number."""
    if _RATIO.fullmatch(answer) is None:
        return None
    terms = [Fraction(term) for term in answer.split(":")]
    return tuple(term / terms[0] for term in terms) if terms[0] else None
