"""Forms of an answer that say the same: an option's letter with its text, a formula with its side condition, an
inequality for an interval, square brackets for round ones, names of sets. All read cleaned answers (math_text.clean).
"""

import re
from typing import NamedTuple

from services.verifier.graders.reading.structure import split_outside

_MAX_CHARACTERS = 500
"""Of what is read here; a longer text is left as it stands."""
_WORD = r"(?-i:(?!(?:sin|cos|tan|log|exp|det|max|min)\b)[A-Za-z][a-z]{2,})"
"""That is no formula's: "B (Paris)" and "B - Paris" are options with their texts, "B(x)" and "B - 2" are none."""
_OPTION = re.compile(
    r"(?:\\(?:text|math)(?:bf|rm)?\{\s*)?(?:(?:option|choice)(?:\s+|\s*\}\s*))?(?:\\(?:text|math)(?:bf|rm)?\{\s*)?"
    rf"(?:\(([A-J])\)|([A-J])(?:[).:]|(?=\}}|\s*$)|\s+[-–—]\s+(?={_WORD})|\s*(?:\\text\{{\s*)?\(\s*(?={_WORD})))"
    r"\}?[).:]?\s*(.*)",
    re.DOTALL | re.IGNORECASE,
)
_COMMANDS = re.compile(r"\\(?:text|mbox|mathrm)\s*\{[^{}]*\}|\\[a-zA-Z]+|\bor\b")
_ONE_LETTER = re.compile(r"\(?[a-zA-Z]\)?\.?")
_VARIABLE = re.compile(r"(?<![\\a-zA-Z])[a-zA-Z](?![a-zA-Z])")
_OTHER_OPTION = re.compile(
    r"\([A-J]\)|(?<![A-Za-z])[A-J][).:]|(?:\bor|\band|[,/&|])\s*(?:option\s+)?\(?[A-J](?![A-Za-z])"
)
_LETTERS_ALONE = re.compile(
    r"(?:[\s,;.&/()]|\b(?:or|and)\b|(?<![A-Za-z])[A-J](?![A-Za-z]))*[A-J](?:[\s.)]|\b(?:or|and)\b)*", re.IGNORECASE
)
_HEDGE = re.compile(
    r"\b(?:maybe|perhaps|possibly|alternatively)\b|^(?:is|was)\s+(?:wrong|incorrect|false|not)\b", re.IGNORECASE
)
_CONDITION = re.compile(
    r"(?:\\(?:text|mbox|mathrm|textrm)\s*\{\s*,?\s*(?:for|where|with|such that|provided)\b|"
    r"(?<![A-Za-z])(?:for (?:all|any|every|each|some)|where|such that|provided)\b|\\forall(?![A-Za-z]))"
)
_SPACING_BEHIND = re.compile(r"(?:[\s,;]|\\q?quad)+$")
_SECOND = re.compile(r"\b(?:or|otherwise|else|if|for|where|with|when|and)\b|;|=")
_LIMITS = re.compile(r"\\(?:neq|ne|geq|ge|leq|le|in|notin|gt|lt)(?![A-Za-z])|[<>]")
_RELATION = re.compile(r"\\(?:leq|le|geq|ge|lt|gt)(?:slant)?(?![A-Za-z])|<=|>=|<|>")
_OR = re.compile(r"\\text\s*\{\s*,?\s*or\s*\}|\bor\b|\\lor(?![A-Za-z])|\\vee(?![A-Za-z])|\\cup(?![A-Za-z])")
_MEMBER = re.compile(r"\s*[a-zA-Z]\s*\\in(?![A-Za-z])\s*")
_INTERVAL = re.compile(r"\s*[(\[].*,.*[)\]]\s*", re.DOTALL)
_LETTER = re.compile(r"\s*[a-zA-Z]\s*")
_BUILDER = re.compile(
    r"\\\{\s*([a-zA-Z])\s*(?:\\in\s*(?:\\mathbb\s*(?:\{\s*R\s*\}|R)|\\R)\s*)?"
    r"(?:\\mid(?![a-zA-Z])|\\vert(?![a-zA-Z])|:|\|)(.*)\\\}",
    re.DOTALL,
)
_WORDS_OF_SETS = re.compile(
    r"(?:\\(?:text|mathrm|mbox)\s*\{\s*)?(?:the\s+)?(?:set\s+of\s+)?([A-Za-z ]+?)\s*\}?", re.IGNORECASE
)
_EMPTY = re.compile(r"\\emptyset|\\varnothing|\\O|∅|Ø|(?:\\\{|\{)\s*(?:\\\}|\})")
_REALS = re.compile(r"\\mathbb\s*(?:\{\s*R\s*\}|R)|\\R|\\Reals|ℝ")
_NAMES_OF_REALS = frozenset(("all real numbers", "all reals", "real numbers", "reals", "all real"))
_NAMES_OF_EMPTY = frozenset(("empty set", "null set"))
_SIDES = {"<": (True, False), "\\lt": (True, False), "<=": (True, True), "\\le": (True, True), "\\leq": (True, True)}
_TURNED = {">": "<", "\\gt": "<", ">=": "<=", "\\ge": "<=", "\\geq": "<="}


class Option(NamedTuple):
    letter: str
    text: str
    """What follows the letter; may be empty."""

    def agrees(self, other: "Option") -> bool:
        """Whether both have one letter, and one text where both have a text."""
        return self.letter == other.letter and not (self.text and other.text and self.text != other.text)


def read_option(text: str) -> Option | None:
    """One option of a multiple choice, "B", "(B)" or "B. 12"; None where it is none, or more than one."""
    match = _OPTION.fullmatch(text.strip())
    if match is None or len(text) > _MAX_CHARACTERS:
        return None
    letter, rest = match[1] or match[2], match[3].strip()
    if not letter.isupper() or _OTHER_OPTION.search(rest) or _LETTERS_ALONE.fullmatch(rest) or _HEDGE.search(rest):
        return None
    return Option(letter, rest.strip("{} .").removesuffix(")").casefold())


def other_variable(one: str, other: str) -> bool:
    """Whether two inequalities are about different letters, as y > 2 and x > 2 are; an interval names none."""
    a, b = set(_VARIABLE.findall(one)), set(_VARIABLE.findall(other))
    return bool(a and b) and a != b


def read_given_option(text: str) -> Option | None:
    """As `read_option`, of an answer: where it is a letter alone, it may be a small one."""
    return read_option(text.upper() if _ONE_LETTER.fullmatch(text) else text)


def without_condition(text: str) -> str:
    """A formula without the side condition behind it, "x+1" of "x+1 \\text{ for all } x"; else the text.

    Nothing is taken from a text of several cases, or that begins with its condition.
    """
    if len(text) > _MAX_CHARACTERS:
        return text
    for match in _CONDITION.finditer(text):
        before, condition = text[: match.start()], text[match.end() :]
        inside = before.count("{") - before.count("}") or "\\begin" in before
        if before.strip() and not inside and not _SECOND.search(condition):
            return _SPACING_BEHIND.sub("", before)
    first, *others = split_outside(text, ",")
    if others and not _LIMITS.search(first) and all(_LIMITS.search(other) and "=" not in other for other in others):
        return first.strip()
    return text


def as_intervals(text: str) -> str:
    """Inequalities of one letter, or its membership, as a union of intervals; empty where it is none of these.

    "x<-1 \\text{ or } x>2" is "(-\\infty,-1)\\cup(2,\\infty)".
    """
    if len(text) > _MAX_CHARACTERS:
        return ""
    member = _MEMBER.match(text)
    if member:
        return text[member.end() :]
    found = [_interval(part) for part in _OR.split(text)]
    return "\\cup ".join(found) if all(found) else ""


def in_one_name(text: str) -> str:
    """The empty set and the real numbers, each in one form."""
    if len(text) > _MAX_CHARACTERS:
        return text
    named = _WORDS_OF_SETS.fullmatch(text)
    name = " ".join(named[1].lower().split()) if named else ""
    if name in _NAMES_OF_EMPTY or _EMPTY.fullmatch(text):
        return "\\emptyset"
    return "(-\\infty,\\infty)" if name in _NAMES_OF_REALS or _REALS.fullmatch(text) else text


def condition_of_set(text: str) -> str:
    """The inequality that defines a set of real numbers, "x>2" of "\\{x \\mid x>2\\}"; empty where there is none."""
    built = _BUILDER.fullmatch(text) if text.startswith("\\{") and len(text) <= _MAX_CHARACTERS else None
    if built is None:
        return ""
    about = set(_VARIABLE.findall(_COMMANDS.sub("", built[2])))
    return built[2].strip() if about == {built[1]} and as_intervals(built[2]) else ""


def is_interval(text: str) -> bool:
    return len(text) <= _MAX_CHARACTERS and all(
        _INTERVAL.fullmatch(part) for part in re.split(r"\\cup(?![A-Za-z])", text)
    )


def _interval(part: str) -> str:
    signs = [sign.removesuffix("slant") for sign in _RELATION.findall(part)]
    sides = [side.strip() for side in _RELATION.split(part)]
    if not 1 <= len(signs) <= 2 or not all(sides):
        return ""
    if all(sign in _TURNED for sign in signs):
        signs, sides = [_TURNED[sign] for sign in reversed(signs)], sides[::-1]
    if not all(sign in _SIDES for sign in signs):
        return ""
    closed = [_SIDES[sign][1] for sign in signs]
    if len(signs) == 2 and _LETTER.fullmatch(sides[1]):
        return f"{'[' if closed[0] else '('}{sides[0]},{sides[2]}{']' if closed[1] else ')'}"
    if len(signs) == 1 and _LETTER.fullmatch(sides[0]):
        return f"(-\\infty,{sides[1]}{']' if closed[0] else ')'}"
    if len(signs) == 1 and _LETTER.fullmatch(sides[1]):
        return f"{'[' if closed[0] else '('}{sides[0]},\\infty)"
    return ""


def with_round_brackets(text: str) -> str:
    """Square brackets that group, and hold no list, as round ones: "2[x+1]" is "2(x+1)"."""
    if "[" not in text or len(text) > _MAX_CHARACTERS:
        return text
    opened: list[tuple[int, bool]] = []
    characters = list(text)
    for index, character in enumerate(text):
        if character in "([{":
            opened.append((index, False))
        elif character in ",;" and opened:
            opened[-1] = (opened[-1][0], True)
        elif character in ")]}" and opened:
            start, is_list = opened.pop()
            root = text[:start].rstrip().endswith(("\\sqrt", "\\\\"))
            if text[start] == "[" and character == "]" and not is_list and not root:
                characters[start], characters[index] = "(", ")"
    return "".join(characters)
