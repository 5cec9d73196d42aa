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
from services.verifier.graders.math_text import as_number, clean_signs
from services.verifier.graders.reading.extraction import answer_line, final_answer
from services.verifier.graders.reading.units import counts_things, currency, is_unit, same_unit, split_unit
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
_WRAPPERS = tuple(re.compile(rf"\\{name}\{{(.*?)\}}") for name in ("text", "textbf", "overline"))
_BOXED = re.compile(r"\\boxed\{(.*)\}")
_SHORT_FRACTION = re.compile(r"frac([^{])(.)")
_SHORT_ROOT = re.compile(r"sqrt([^{])")
_SHORT_POWER = re.compile(r"\^\{([0-9a-zA-Z])\}")
_GROUPED = re.compile(r"[+-]?[0-9]{1,3}(?: [0-9]{3})+")
_BETWEEN_DIGITS = re.compile(r"(?<=[0-9])\s+(?=[0-9])")
_APART = "\u00a0"
_NUMERALS = re.compile(r"[0-9]+(?:\.[0-9]+)?|\.[0-9]+")
_GROUPS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")
_RELATION = re.compile(r"[<>≤≥≠≈,;]|!=|\\(?:[lg]eq?|n(?:eq?|ot)|approx|equiv|sim)(?![a-zA-Z])|\b(?:and|or)\b")
_AMID_DIGITS = re.compile(r"[0-9]\s*\\?\$+\s*[0-9]")
_BEFORE_DIGITS = re.compile(r"(?<=[0-9.])\s+(?=[0-9])")
_NOT_EQUAL = re.compile(r"(?<![0-9)])!=")
_STATES = re.compile(r"box|answer|####|\ba\s*:", re.IGNORECASE)
_INTEGER = re.compile(r"([+-]?)([0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)")


class _Answer(NamedTuple):
    normal: str
    number: Fraction | None
    unit: str = ""
    """That the normal form has lost; read of gold answers alone."""


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
    if verdict.reason == "different" and answer.number is not None and answer.number == wanted.number:
        verdict = right("equal", answer.normal)
    if not verdict.correct and answer.number is None and wanted.number is not None and not wanted.unit:
        # A unit that only the answer has is left out.
        text = clean_signs(written)
        bare, unit = split_unit(text)
        if counts_things(text, unit) or is_unit(unit):
            answer = _read(bare.strip())
            if answer.number == wanted.number:
                return right("equal", answer.normal)
    if verdict.correct and wanted.unit:
        unit = _unit(written)
        if unit and not same_unit(unit, wanted.unit):
            return wrong("different", f"{answer.normal} {unit}")
    return verdict


def _class_of(text: str) -> str:
    written = answer_line(text)
    if not written:
        return ""
    answer = _read(written)
    return class_of_text(answer.normal) if answer.number is None else class_of_number(answer.number)


def _class_of_literal(text: str) -> str:
    return class_of_text(_last_line(text))


def _read(written: str) -> _Answer:
    if _INTEGER.fullmatch(written):  # there is nothing in it to be set aside
        digits = _canonical_integer(written)
        return _Answer(digits, as_number(digits))
    text = clean_signs(written).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    number = as_number(text)
    if " " in text and not _GROUPED.fullmatch(text):  # the normal form has no spaces, but 1 1/2 is not 11/2
        text = _BETWEEN_DIGITS.sub(_APART, text)
    normal = normalise(_SHORT_POWER.sub(r"^\1", text.replace("$", "")))
    if _AMID_DIGITS.search(written):
        return _Answer(_APART.join(written.split()), None)
    if "\\overline" in text or _states_several(text) or _joins(text, normal):
        return _Answer("".join(_BEFORE_DIGITS.sub(_APART, text.replace("$", "")).split(" ")), None)
    return _Answer(normal, as_number(normal) if number is None else number)


def _states_several(text: str) -> bool:
    """Whether the normal form, which is what stands behind the last equals sign, would leave out another value, as of
    `x = 5, y = 6`, `x = 5 = 6` and `x \\ge 5 = 6`."""
    if "=" not in text:
        return False
    *before, last = text.split("=")
    if _NOT_EQUAL.search(text) or _RELATION.search("=".join(before)):
        return True
    value = as_number(last.strip())
    numbers = [as_number(side.strip()) for side in before]
    return value is not None and any(number not in (None, value) for number in numbers)


def _joins(text: str, normal: str) -> bool:
    """Whether a number of the normal form is made of what were two, as 230 of "2 hours 30 minutes" is."""
    if normal == text or _GROUPED.fullmatch(text):
        return False
    written = _NUMERALS.findall(_GROUPS.sub("", text))
    return any(all(one not in whole for whole in written) for one in _NUMERALS.findall(_GROUPS.sub("", normal)))


def _unit(written: str) -> str:
    return split_unit(clean_signs(written))[1] or currency(written)


@lru_cache(maxsize=4096)
def _read_gold(gold: str) -> _Answer:
    stated = (final_answer(gold) if _STATES.search(gold) else "") or gold
    return _read(stated)._replace(unit=_unit(stated))


@lru_cache(maxsize=4096)
def _normal_gold(gold: str) -> str:
    return normalise(gold)


def normalise(answer: str) -> str:
    """Answers that are equal by Minerva's rule have equal normal forms. May be empty, e.g. for "units"."""
    text = answer.rpartition("=")[2]
    for old, new in _REPLACED:
        text = text.replace(old, new)
    for expression in _REMOVED:
        text = text.replace(expression, "")
    return _canonical_integer(_plain_latex(text).strip())


def _plain_latex(text: str) -> str:
    if "\\" not in text and "$" not in text and "frac" not in text and "sqrt" not in text:
        return text
    parts = text.split("$")
    if len(parts) > 2:  # only what stands in the first pair of dollar signs
        text = parts[1]
    for wrapper in _WRAPPERS:
        text = wrapper.sub(r"\1", text)
    text = _BOXED.sub(r"\1", text)
    text = _SHORT_FRACTION.sub(r"frac{\1}{\2}", text)
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
