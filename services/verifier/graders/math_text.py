"""A mathematical answer as text: its cleaned spelling, its letters, and whether it is too costly for sympy."""

import re
import unicodedata
from math import prod

from services.verifier.graders.reading.structure import longest_list
from services.verifier.graders.reading.typography import plain

_MAX_CHARACTERS = 500
"""Of an answer that is compared by its meaning; a longer one can only be equal as text."""
_MAX_DEPTH = 24
_MAX_DIGITS = 120
_MAX_EXPONENT = 5000
MAX_ITEMS = 24
"""Of a list that sympy reads and compares item by item; numbers alone are compared without it."""
_MAX_FORMULAS = 12
"""Of a list with letters: each may be compared with each, some 50 ms a pair."""
_MAX_EXPANDED = 100
"""Exponent of a group with letters, which sympy may multiply out."""
_LEAST_EXPANDED = 4
_MAX_COMMANDS = 60
_MAX_EQUATIONS = 6

_SIGNS = str.maketrans(
    {
        "−": "-", "×": r"\times ", "·": r"\cdot ", "÷": r"\div ", "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ",
        "≥": r"\ge ", "≠": r"\neq ", "±": r"\pm ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": r"^\circ ",
    }
)  # fmt: skip
_OPENING = re.compile(r"(?:\s|\$|\\[()\[\],;:! ])*")
_CLOSING_REVERSED = re.compile(
    r"(?:\s|\$(?!\\)|[()\[\],;:!]\\(?!\\))*[.,;:]?(?:\s|\$(?!\\)|[()\[\],;:!]\\(?!\\)|\\(?=[0-9}]))*"
)
"""Matched from the end, as a search for what ends there takes time quadratic in runs that do not."""
_SPACING = re.compile(r"\\!\s*|\\displaystyle\s*|\\(?:left|right)(?![a-zA-Z])|\\\$|(?<!\\)\$|(?<!\\)\\[()]")
_SPACES = re.compile(r"(?<!\\)\\[,;: ]|~")
TEXT = re.compile(r"\\(?:text|mbox|mathrm|textbf|textit|textrm|textnormal|mathbf|mathit)\s*\{([^{}]*)\}")
_SPACE = re.compile(r"(?<![0-9.])(?:\s|\\[,; ])+|(?:\s|\\[,; ])+(?![0-9\s\\])")
_BASE = re.compile(r"[0-9A-Fa-f]\}?_\s*(?:\{\s*)?([0-9]+)\s*\}?$")
_SHORT_WORDS = frozenset(
    ("no", "on", "am", "pm", "ne", "nw", "se", "sw", "up", "is", "in", "at", "to", "of", "so", "go")
)
_PERCENT = re.compile(r"\b(?:per\s?cent|pct)", re.IGNORECASE)
_COSTLY = re.compile(r"\\(?:sum|prod|i*int|oint|lim|bigcup|bigcap|Gamma|zeta)(?![a-zA-Z])|\b(?:factorial|primorial)\b")
_BIG_NUMBER = re.compile(rf"[0-9]{{{_MAX_DIGITS + 1},}}")
_HUGE_FACTORIAL = re.compile(r"!\s*[)}\]]*\s*!|\^|[0-9]{4}")
_MANY_SIGNS = re.compile(r"(?:[-+]\s*){8}")
_SIGN = re.compile(r"[-+]")
_FONT = re.compile(r"(\\[a-zA-Z]+\s*)?\\(?:boldsymbol|bm|mathsf|mathtt|underline)\s*\{([^{}]*)\}")
_BOLD = re.compile(r"\\(?:boldsymbol|bm)(?=\s*\{)")
_MEASURE = re.compile(
    r"\\(?:text|mbox|mathrm|textbf|textit|textrm|textnormal|mathbf)\s*"
    r"\{\s*([+-]?[0-9][0-9.,]*(?:/[0-9]+)?)\s+([A-Za-z][^{}]*)\}"
)
_SWITCH = re.compile(r"\\(?:bf|rm|it|large|Large|huge|small|color\s*\{[a-z]+\})(?![a-zA-Z])\s*")
_IN_BRACES = re.compile(r"\{([^{}]*)\}")
_PRIMES = re.compile(r"\^\s*(?:\{\s*)?((?:\\prime(?![a-zA-Z])\s*)+)\}?")
_LEADING = re.compile(r"\s*(?:=|\\approx(?![a-zA-Z]))\s*(?=[-+0-9.\\])")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_HUGE_BINOMIAL = re.compile(r"\\[dt]?binom.*(?:[0-9]{4}|\^|!)", re.DOTALL)


class UnreadableAnswer(ValueError):
    """The answer holds characters that a reader cannot see or can mistake."""


def clean(answer: str) -> str:
    """Without delimiters and spacing, typographic signs as LaTeX. Raises UnreadableAnswer."""
    text = plain(answer).translate(_SIGNS)
    require_visible(text)
    return _without_spacing(text)


def clean_signs(answer: str) -> str:
    """As `clean`, with the signs that are not LaTeX as they stand. Nothing is refused."""
    return _without_spacing(plain(answer))


def _without_spacing(text: str) -> str:
    text = _without_fonts(plain(_bare(text)).replace("{,}", ","))
    if "\\" in text or "$" in text or "~" in text:
        text = _SPACES.sub(" ", _SPACING.sub("", text))
    text = text.strip()
    measure = _MEASURE.fullmatch(text) if text.startswith("\\") else None
    return f"{measure[1]} \\text{{{measure[2]}}}" if measure else text


def _without_fonts(text: str) -> str:
    """Without fonts, sizes and colours, and without a sign of equality in front."""
    if "\\" in text:
        if "\\times" in text:  # The order of vectors counts.
            text = _BOLD.sub(r"\\mathbf", text)
        text = _SWITCH.sub("", _FONT.sub(lambda font: f"{font[1]} {font[2]}" if font[1] else font[2], text))
        inner = _IN_BRACES.fullmatch(text)
        text = inner[1] if inner else text
        if "\\prime" in text:
            text = _PRIMES.sub(lambda primes: "'" * primes[1].count("prime"), text)
    return _LEADING.sub("", text, count=1) if _LEADING.match(text) else text


def _bare(text: str) -> str:
    """Without delimiters and white space at both ends, and a full stop."""
    opening = _OPENING.match(text)
    text = text[opening.end() :] if opening else text
    closing = _CLOSING_REVERSED.match(text[::-1])
    return text[: len(text) - closing.end()] if closing else text


def require_visible(text: str) -> None:
    """Raises UnreadableAnswer where there are digits of other scripts, or characters without a shape of their own."""
    for character in text:
        if " " <= character <= "~" or character in "\t\n\r":
            continue
        if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Nd", "Nl", "No"):
            raise UnreadableAnswer(f"U+{ord(character):04X}")


def as_text(answer: str) -> str:
    """Of a cleaned answer: markup of text and white space aside. Equal texts are equal answers."""
    text = TEXT.sub(r"\1", answer).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    return _SPACE.sub("", text).strip("$").rstrip(".")


def as_word(text: str) -> str:
    """`text` in lower case, without brackets, where it is a word and no product of two letters; otherwise empty."""
    word = text.strip("()").casefold()
    return word if word in _SHORT_WORDS or (len(word) > 2 and word.isalpha()) else ""


def other_letters(answer: str, gold: str) -> bool:
    """Whether a letter stands in both, in other cases: "b" is not "B"."""
    found, wanted = _letters(answer), _letters(gold)
    return any(
        {letter, letter.swapcase()} & found != {letter, letter.swapcase()} & wanted
        for letter in found
        if letter in wanted or letter.swapcase() in wanted
    )


def _letters(answer: str) -> set[str]:
    return {letter for letter in _COMMAND.sub("", TEXT.sub("", answer)) if letter.isalpha()}


def upper_letters(answer: str) -> list[str]:
    return sorted(letter for letter in _letters(answer) if letter.isupper())


def has_text(answer: str) -> bool:
    """Whether words stand in the markup of text, behind the last equals sign, or "percent" stands anywhere."""
    return TEXT.search(answer.rpartition("=")[2]) is not None or _PERCENT.search(answer) is not None


def base_of(answer: str) -> str:
    """The base that a cleaned answer is written in, "3" for 102_3; empty where none is written."""
    match = _BASE.search(answer)
    return match[1] if match else ""


def is_costly(answer: str) -> bool:
    """Whether sympy might not end with it: towers of powers, large factorials, sums, long numbers, deep nesting,
    long lists.

    Cheap and not exact: the deadline of the grading process is what holds.
    """
    return (
        len(answer) > _MAX_CHARACTERS
        or _depth(answer) > _MAX_DEPTH
        or len(_COMMAND.findall(answer)) > _MAX_COMMANDS
        or answer.count("=") > _MAX_EQUATIONS
        or longest_list(answer) > (_MAX_FORMULAS if _letters(answer) else MAX_ITEMS)
        or bool(_MANY_SIGNS.search(answer))
        or bool(_COSTLY.search(answer) or _BIG_NUMBER.search(answer) or _HUGE_BINOMIAL.search(answer))
        or ("!" in answer and (answer.count("!") > 3 or bool(_HUGE_FACTORIAL.search(answer))))
        or _huge_power(answer.replace("**", "^"))
    )


def _depth(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


def _huge_power(text: str) -> bool:
    exponents = [_exponent(text, index + 1) for index, character in enumerate(text) if character == "^"]
    if any("^" in exponent and re.search(r"[0-9]", exponent) for exponent in exponents):
        return re.search(r"[0-9)}]\s*\^", "".join(exponents)) is not None
    sizes = [prod(map(int, re.findall(r"[0-9]+", exponent))) or 1 for exponent in exponents]
    of_group = re.search(r"[)}\]]\s*\^", text)
    largest = _MAX_EXPONENT
    if of_group and re.search(r"[a-zA-Z]", _COMMAND.sub("", text)):
        # A power of a long sum has many more terms than one of a short sum.
        largest = max(_LEAST_EXPANDED, _MAX_EXPANDED // max(1, len(_SIGN.findall(text)) - 1) ** 2)
    return (prod(sizes) if of_group else max(sizes, default=1)) > largest


def _exponent(text: str, start: int) -> str:
    """What stands after a `^`: a group, or a number as a person reads it."""
    rest = text[start:].lstrip()
    if rest[:1] not in ("{", "("):
        match = re.match(r"[+-]?[0-9]+(?:\s*\^\s*\{?[+-]?[0-9]+)*|.?", rest, re.DOTALL)
        return match[0] if match else ""
    depth = 0
    for index, character in enumerate(rest):
        depth += (character in "{(") - (character in "})")
        if depth == 0:
            return rest[: index + 1]
    return rest
