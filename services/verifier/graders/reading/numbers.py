"""Numbers of cleaned answers: their values, alone and in lists, and how far they may differ."""

import re
from fractions import Fraction

from services.verifier.graders.math_text import MAX_ITEMS, TEXT
from services.verifier.graders.reading.structure import items, members

_MAX_CHARACTERS = 500
"""Of what is read as one number, or has its numbers rewritten."""
_NEAR = Fraction(1, 100)
_NUMBER = re.compile(r"([+-]?)\s*([0-9]{1,3}(?:,[0-9]{3})+|[1-9][0-9]{0,2}(?: [0-9]{3})+|[0-9]+)?(?:\.([0-9]*))?")
_GROUPING = re.compile("[, ]")
_PERIOD = (
    r"\\(?:overline|bar)\s*(?:\{\s*([0-9]+)\s*\}|([0-9]))|\(([0-9]+)\)|"
    r"\\dot\s*\{?([0-9])\}?(?:([0-9]*)\\dot\s*\{?([0-9])\}?)?"
)
_REPEATING = re.compile(rf"([+-]?)\s*([0-9]*)\.([0-9]*)(?:{_PERIOD})")
_FRACTION = re.compile(
    r"([+-]?)\s*(?:\\[dtc]?frac\s*\{\s*([+-]?[0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}|([0-9]+)\s*/\s*([0-9]+))"
)
_SCIENTIFIC = re.compile(r"([+-]?)\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE]([+-]?[0-9]{1,3})")
_POWER_OF_TEN = re.compile(
    r"([+-]?)\s*(?:([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*(?:\\times|\\cdot|[*x×·])\s*)?"
    r"10\s*(?:\^|\*\*)\s*(?:\{\s*([+-]?[0-9]{1,3})\s*\}|([+-]?[0-9]{1,3}))"
)
_MIXED = re.compile(
    r"([+-]?)\s*([0-9]+)(?:\s*\\[dtc]?frac\s*\{\s*([0-9]+)\s*\}\s*\{\s*([0-9]+)\s*\}|\s+([0-9]+)\s*/\s*([0-9]+))"
)
_NO_DECIMAL = re.compile(r"(?=[+-]?\s*[0-9.\\])[^\\/eE^*(]*[\\/eE^*(]")
"""What a power, a fraction, a mixed and a repeating number have: one search is cheaper than four."""
_APART = re.compile(r"[+-]?[0-9]+(?:\s+[0-9]+(?:\s*/\s*[0-9]+)?|\.\s+[0-9]+)")
_NUMBER_ALONE = re.compile(
    r"(?:(?<=^)|(?<=[(\[{,;=<>]))\s*[+-]?\s*(?:"
    r"[0-9]+\s+[0-9]+\s*/\s*[0-9]+|[0-9]+\s*\\[dtc]?frac\s*\{\s*[0-9]+\s*\}\s*\{\s*[0-9]+\s*\}|"
    r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][+-]?[0-9]{1,3}|[1-9][0-9]{0,2}(?: [0-9]{3})+(?:\.[0-9]*)?|"
    rf"[0-9]*\.[0-9]*(?:{_PERIOD}))"
    r"\s*(?=$|[)\]},;=<>]|\\\})"
)
"""Mixed, scientific, grouped by spaces, repeating."""
_PARTED_THOUSANDS = re.compile(r"[0-9],[0-9]{3}(?![0-9])")
_PERCENT_WORD = re.compile(
    r"(?<=[0-9}])\s*(?:\\(?:text|mbox|mathrm|textrm)\s*\{\s*(?:per\s?cent|pct)\.?\s*\}|(?:per\s?cent|pct)\b|(?<!\\)%)",
    re.IGNORECASE,
)


def as_number(answer: str) -> Fraction | None:
    """Value of a cleaned answer that is an integer, a decimal number, repeating or not, or a fraction of integers."""
    if len(answer) > _MAX_CHARACTERS:
        return None
    text = TEXT.fullmatch(answer) if answer.startswith("\\") else None
    answer = text[1].strip() if text else answer
    if answer.isdigit() and answer.isascii():
        return Fraction(int(answer))
    match = _NUMBER.fullmatch(answer)
    if match and (match[2] or match[3]):
        decimals = match[3] or ""
        value = Fraction(int(_GROUPING.sub("", match[2] or "0") + decimals), 10 ** len(decimals))
        return -value if match[1] == "-" else value
    if not _NO_DECIMAL.match(answer):
        return None
    power = _SCIENTIFIC.fullmatch(answer) or _POWER_OF_TEN.fullmatch(answer)
    if power:
        value = Fraction(power[2] or "1") * Fraction(10) ** int(power[3] or power[4])
        return -value if power[1] == "-" else value
    mixed = _MIXED.fullmatch(answer)
    if mixed and int(mixed[3] or mixed[5]) < int(mixed[4] or mixed[6]):
        value = int(mixed[2]) + Fraction(int(mixed[3] or mixed[5]), int(mixed[4] or mixed[6]))
        return -value if mixed[1] == "-" else value
    repeating = _REPEATING.fullmatch(answer)
    if repeating:
        value = _repeated(repeating)
        return -value if repeating[1] == "-" else value
    match = _FRACTION.fullmatch(answer)
    if not match or not int(match[3] or match[5]):
        return None
    value = Fraction(int(match[2] or match[4]), int(match[3] or match[5]))
    return -value if match[1] == "-" else value


def _repeated(match: re.Match[str]) -> Fraction:
    """0.1(6) is 0.1 and 6/90."""
    whole, once = match[2] or "0", match[3]
    period = match[4] or match[5] or match[6] or "".join(part or "" for part in match.groups()[6:])
    shown = Fraction(int(whole + once), 10 ** len(once))
    return shown + Fraction(int(period), (10 ** len(period) - 1) * 10 ** len(once))


def with_plain_numbers(answer: str) -> str:
    """Numbers that the library reads as something else, alone between brackets, commas and signs of relation, as
    fractions: "(-2 1/2, 5e0)" is "(-\\frac{5}{2}, 5)"."""
    return _NUMBER_ALONE.sub(_as_fraction, answer) if len(answer) <= _MAX_CHARACTERS else answer


def _as_fraction(match: re.Match[str]) -> str:
    value = as_number(match[0].strip())
    if value is None:
        return match[0]
    whole = f"{abs(value)}" if value.denominator == 1 else f"\\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    return f"-{whole}" if value < 0 else whole


def number_list(answer: str) -> tuple[str, list[Fraction]] | None:
    """Of a set or tuple of numbers, its opening bracket and its members; those of a set ascend, each but once.

    A list without brackets is a set, as the library has it. None where commas of a short one could part thousands.
    """
    if "," not in answer:
        return None
    bracket = "(" if answer.startswith("(") else "{"
    found = members(answer, "(", ")") if bracket == "(" else members(answer, "\\{", "\\}") or items(answer)
    numbers = [number for one in found if (number := as_number(one)) is not None]
    parted = len(found) <= MAX_ITEMS and _PARTED_THOUSANDS.search(answer)
    if parted or len(numbers) < max(2, len(found)):
        return None
    return bracket, numbers if bracket == "(" else sorted(set(numbers))


def is_long_list(numbers: tuple[str, list[Fraction]] | None) -> bool:
    return numbers is not None and len(numbers[1]) > MAX_ITEMS


def names_no_number(answer: str) -> bool:
    """Whether whole numbers stand side by side, as in "3 4" and "4 10/3": no product, and no mixed number."""
    return _APART.fullmatch(answer) is not None


def with_percent_sign(answer: str) -> str:
    """A number in percent, the word written as the sign."""
    return _PERCENT_WORD.sub(r"\\%", answer)


def agree(a: Fraction, b: Fraction, digits: int) -> bool:
    """Equal, or rounded to `digits` decimals equal, and within 1 %: no small number is a smaller one, or 0."""
    return a == b or (round(a, digits) == round(b, digits) and abs(a - b) <= _NEAR * abs(a))
