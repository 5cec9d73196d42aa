"""The structure of a cleaned answer: sets and tuples, lists of named values, chains of equations.

math-verify ignores it in part: it takes a set for a tuple, drops the names of values, and reads only the last side
of an equation.
"""

import re

_VALUE = re.compile(r"\s*([a-zA-Z](?:_\{?[0-9a-zA-Z]\}?)?)\s*=\s*([^=<>]+)")
_AND = re.compile(r"\\text\s*\{\s*,?\s*(?:and|or)\s*\}|\b(?:and|or)\b")
_NOT_EQUALS = re.compile(r"[<>:!]=|\\(?:neq?|leq?|geq?|not)\b|[<>]|_")
_OPENING, _CLOSING = "([{", ")]}"


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
