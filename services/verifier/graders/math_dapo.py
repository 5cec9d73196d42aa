"""`math_dapo`: DAPO's rule (arXiv 2503.14476). The last "Answer: …" is compared in Minerva's normal form.

Harmless typography is set aside first, and numbers are compared as such; `literal` leaves that out. Then the rule is
the paper's.

The normal form is that of Lewkowycz et al. (arXiv 2206.14858, appendix D.1, listing 1).

The rules are the paper's, in its order, with one change: integers are brought to one spelling. Well-formed thousands
separators, a plus sign and leading zeros go ("1,000" = "1000", "073" = "73", "-1,000" = "-1000"), while "1,2", which
the paper's rule turns into 12, stays a pair.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from dapo.spec.tree.graders import MathDapoGrader
from services.verifier.graders.equivalence import class_of_number, class_of_text
from services.verifier.graders.golds import compares, mathematical_problem
from services.verifier.graders.math_text import clean_signs
from services.verifier.graders.reading.extraction import answer_line, final_answer
from services.verifier.graders.reading.numbers import as_number, with_percent_sign
from services.verifier.graders.reading.units import (
    currency,
    may_be_unit,
    same_unit,
    split_measure,
    split_sign_of,
    split_unit,
    without_currency,
)
from services.verifier.graders.reading.variants import Option, read_given_option, read_option
from services.verifier.graders.verdict import Grader, Verdict, compare_texts, right, wrong

_ANSWER = re.compile(r"(?i)Answer\s*:\s*([^\n]+)")
_REPLACED = (
    ("an ", ""),
    ("a ", ""),
    (".$", "$"),
    ("\\$", ""),
    ("\\ ", ""),
    (" ", ""),
    ("mbox", "text"),
    (",\\text{and}", ","),
    ("\\text{and}", ","),
    ("\\text{m}", "\\text{}"),
)
# fmt: off
_WORDS = (
    "square", "ways", "integers", "dollars", "mph", "inches", "ft", "hours", "km", "units", "\\ldots", "sue",
    "points", "feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges",
    "students", "childrentickets", "multiples",
)
# fmt: on
_MARKUP = (
    "\\text{s}",
    "\\text{.}",
    "\\text{\ns}",
    "\\text{}^2",
    "\\text{}^3",
    "\\text{\n}",
    "\\text{}",
    "\\mathrm{th}",
    "^\\circ",
    "^{\\circ}",
    "\\;",
    ",\\!",
    "{,}",
    '"',
    "\\dots",
)
_REMOVED = (*_WORDS, *_MARKUP)
_ANY_REMOVED = re.compile("|".join(map(re.escape, _REMOVED)))
_WRAPPERS = tuple(re.compile(rf"\\{name}\{{(.*?)\}}") for name in ("text", "textbf", "overline"))
_BOXED = re.compile(r"\\boxed\{(.*)\}")
_SHORT_FRACTION = re.compile(r"frac([^{])(.)")
_SHORT_ROOT = re.compile(r"sqrt([^{])")
_SHORT_POWER = re.compile(r"\^\{([0-9a-zA-Z])\}")
_GROUPED = re.compile(r"[+-]?[1-9][0-9]{0,2}(?: [0-9]{3})+")
_BETWEEN_DIGITS = re.compile(r"(?<=[0-9])\s+(?=[0-9])")
_APART = "\u00a0"
_NUMERALS = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_GROUPS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_RELATION = re.compile(
    r"[<>≤≥≠≈,;]|!=|\\(?:[lg]eq?|n(?:eq?|ot)|approx|equiv|sim)(?![a-zA-Z])|"
    r"\b(?:and|or|for|if|where|when|with|while|but|otherwise|not)\b"
)
_AMID_DIGITS = re.compile(r"[0-9]\s*(?:(?:\$|\\[$()])\s*)+[0-9]")
_TWO_OPTIONS = re.compile(r"(?<![A-Za-z])[A-J]\s*=\s*[A-J](?![A-Za-z])")
_BEFORE_DIGITS = re.compile(r"(?<=[0-9.])\s+(?=[0-9])")
_NOT_EQUAL = re.compile(r"(?<![0-9)])!=")
_STATES = re.compile(r"box|answer|####|\ba\s*:", re.IGNORECASE)
_INTEGER = re.compile(r"([+-]?)([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)")


class _Answer(NamedTuple):
    normal: str
    number: Fraction | None
    percent: bool = False
    """It is written in percent; 12 % has the number 3/25."""
    unit: str = ""
    """That went; read of gold answers alone."""
    option: Option | None = None
    """Read of gold answers alone."""


def make_math_dapo(options: MathDapoGrader) -> Grader:
    grade = _grade_literally if options.literal else _grade
    classify = _class_of_literal if options.literal else _class_of
    stating = "Answer: {}".format if options.literal else _stating
    return compares(grade, mathematical_problem(grade, stating), classify)


def _stating(gold: str) -> str:
    """A response that gives the gold answer, which may be a solution that states it."""
    return f"Answer: {final_answer(gold) or gold}"


def _grade_literally(text: str, gold: str) -> Verdict:
    """`text` is the end of the response: the caller cuts it to the 300 characters that the paper's rule reads."""
    return compare_texts(_last_line(text), _normal_gold(gold))


def _last_line(text: str) -> str:
    answers = _ANSWER.findall(text)
    return normalise(answers[-1]) if answers else ""


def _grade(text: str, gold: str) -> Verdict:
    written = answer_line(text)
    if not written:
        return wrong("no_answer")
    answer, wanted = _read(written), _read_gold(gold)
    verdict = compare_texts(answer.normal, wanted.normal)
    if verdict.reason == "different" and _says_the_same(written, answer, wanted):
        verdict = right("equal", answer.normal)
    if verdict.correct and _are_other_numbers(answer, wanted):  # as 10^2 and 10 cm^2
        return wrong("different", answer.normal)
    if verdict.correct and wanted.unit:
        unit = _unit(written)
        if unit and not same_unit(unit, wanted.unit):
            return wrong("different", f"{answer.normal} {unit}")
    return verdict


def _are_other_numbers(answer: _Answer, wanted: _Answer) -> bool:
    """Though their normal forms are equal."""
    known = answer.number is not None and wanted.number is not None and answer.percent == wanted.percent
    return known and answer.number != wanted.number


def _says_the_same(written: str, answer: _Answer, wanted: _Answer) -> bool:
    """By its value, or as an option: what the normal form does not show."""
    if wanted.option:
        given = read_given_option(clean_signs(written))
        return given is not None and given.agrees(wanted.option)
    if wanted.number is None:
        return False
    if answer.number is None and wanted.percent:
        answer = _read(with_percent_sign(written))
    if answer.number is None and wanted.unit:
        answer = answer._replace(number=as_number(split_sign_of(clean_signs(written), wanted.unit).strip()))
    if answer.number is None or answer.number == wanted.number or answer.percent == wanted.percent:
        return answer.number == wanted.number
    return 100 * answer.number == wanted.number if answer.percent else answer.number == 100 * wanted.number


def _class_of(text: str) -> str:
    written = answer_line(text)
    if not written:
        return ""
    answer = _read(with_percent_sign(written))
    if answer.number is not None:
        return class_of_number(answer.number)
    option = read_option(clean_signs(written))
    return class_of_text(option.letter if option else answer.normal)


def _class_of_literal(text: str) -> str:
    return class_of_text(_last_line(text))


def _read(written: str) -> _Answer:
    if _INTEGER.fullmatch(written):  # there is nothing in it to be set aside
        digits = _canonical_integer(written)
        return _Answer(digits, as_number(digits))
    if _AMID_DIGITS.search(written):
        return _Answer(_APART.join(written.split()), None)
    text = clean_signs(written).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac").replace("°", "^\\circ")
    number = as_number(text)
    if number is not None and text.isdigit() and text == _canonical_integer(text):
        return _Answer(text, number)
    if " " in text and not _GROUPED.fullmatch(text):  # the normal form has no spaces, but 1 1/2 is not 11/2
        text = _BETWEEN_DIGITS.sub(_APART, text)
    normal = normalise(_SHORT_POWER.sub(r"^\1", text.replace("$", "")))
    if "\\overline" in text or _states_several(text) or _joins(text, normal):
        return _Answer("".join(_BEFORE_DIGITS.sub(_APART, text.replace("$", "")).split(" ")), None)
    # Of "10 cm^2" the normal form is 10^2.
    if number is None and "^" not in split_measure(text)[1]:
        number = as_number(normal)
    return _measured(text, normal) if number is None else _Answer(normal, number)


def _measured(text: str, normal: str) -> _Answer:
    """With the number before a unit, an amount of money, or a percentage."""
    if text.endswith("%"):
        number = as_number(text.rstrip("%").rstrip("\\ "))
        return _Answer(normal, number and number / 100, percent=number is not None)
    bare, _ = split_measure(text)
    return _Answer(normal, as_number(without_currency(bare).rstrip()))


def _states_several(text: str) -> bool:
    """Whether the normal form, which is what stands behind the last equals sign, would leave out another value, as of
    `x = 5, y = 6`, `x = 5 = 6` and `x \\ge 5 = 6`."""
    if "=" not in text:
        return False
    *before, last = text.split("=")
    if _NOT_EQUAL.search(text) or _RELATION.search("=".join(before)) or _TWO_OPTIONS.search(text.replace("$", "")):
        return True
    value = as_number(last.strip())
    numbers = [as_number(side.strip()) for side in before]
    return value is not None and any(number not in (None, value) for number in numbers)


def _joins(text: str, normal: str) -> bool:
    """Whether a number of the normal form is made of what were two, as 230 of "2 hours 30 minutes" is."""
    if normal == text or _GROUPED.fullmatch(text):
        return False
    written = _NUMERALS.findall(_GROUPS.sub("", text.rpartition("=")[2]))
    return any(all(one not in whole for whole in written) for one in _NUMERALS.findall(_GROUPS.sub("", normal)))


def _unit(written: str) -> str:
    return split_unit(clean_signs(written))[1] or currency(written)


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> _Answer:
    """What is behind its number may be any unit; only what makes another number of it is none."""
    stated = with_percent_sign((final_answer(gold) if _STATES.search(gold) else "") or gold)
    text = clean_signs(stated)
    bare, unit = split_unit(text)
    answer = _read(stated)._replace(unit=unit or currency(stated), option=read_option(text))
    if answer.number is None and may_be_unit(unit):
        answer = answer._replace(number=as_number(bare.strip()))
    return answer


@lru_cache(maxsize=4096)
def _normal_gold(gold: str) -> str:
    return normalise(gold)


def normalise(answer: str) -> str:
    """Answers that are equal by Minerva's rule have equal normal forms. May be empty, e.g. for "units"."""
    text = answer.rpartition("=")[2]
    for old, new in _REPLACED:
        text = text.replace(old, new)
    if _ANY_REMOVED.search(text):  # one search is cheaper than all replacements
        for expression in _REMOVED:
            text = text.replace(expression, "")
    return _canonical_integer(_plain_latex(text).strip())


def _plain_latex(text: str) -> str:
    if "\\" not in text and "$" not in text and "frac" not in text and "sqrt" not in text:
        return text
    parts = text.split("$")
    if len(parts) > 2:  # only what stands in the first pair of dollar signs
        text = parts[1]
    if "\\text" in text or "\\overline" in text:
        for wrapper in _WRAPPERS:
            text = wrapper.sub(r"\1", text)
    if "\\boxed" in text:
        text = _BOXED.sub(r"\1", text)
    if "frac" in text:
        text = _SHORT_FRACTION.sub(r"frac{\1}{\2}", text)
    if "sqrt" in text:
        text = _SHORT_ROOT.sub(r"sqrt{\1}", text)
    return text.replace("$", "")


def _canonical_integer(text: str) -> str:
    match = _INTEGER.fullmatch(text)
    if match is None:
        return text
    digits = match[2].replace(",", "").lstrip("0")
    if not digits:
        return "0"
    return f"-{digits}" if match[1] == "-" else digits
