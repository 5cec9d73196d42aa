"""The structure of a cleaned answer: sets and tuples, lists of named values, chains of equations.

math-verify ignores it in part: it takes a set for a tuple, drops the names of values, and reads only the last side
of an equation.
"""

import re
from fractions import Fraction

_VALUE = re.compile(r"\s*([a-zA-Z](?:_\{?[0-9a-zA-Z]\}?)?)\s*=\s*([^=<>]+)")
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


def is_set(text: str) -> bool:
    return bool(members(text, "\\{", "\\}"))


def is_tuple(text: str) -> bool:
    return bool(members(text, "(", ")"))


def named_values(text: str) -> list[str]:
    """Values of two names or more, "x = 2, y = 3", as they stand; empty where `text` is no such list."""
    found = [_VALUE.fullmatch(item) for item in items(text)]
    values = {match[1]: match[2].strip() for match in found if match}
    return list(values.values()) if len(values) > 1 and len(values) == len(found) else []


def equations(text: str) -> list[list[str]]:
    """The sides of each chain of equations in a list; none of what holds an inequality or an index."""
    chains = [split_outside(item, "=") for item in items(text) if not _NOT_EQUALS.search(item)]
    return [[side.strip() for side in chain] for chain in chains if len(chain) > 1]


def other_marks(answer: str, gold: str) -> bool:
    """Whether marks differ that the library drops: f'(x) is not f(x), and 5'6 is not 56."""
    found, wanted = answer.rpartition("=")[2], gold.rpartition("=")[2]
    return any(len(mark.findall(found)) != len(mark.findall(wanted)) for mark in _MARKS)


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
