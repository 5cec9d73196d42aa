"""The same value in any two forms is equal, and different values never are: numbers, units, roots, powers, tuples,
intervals and options, in random typography. The same forms vote as one in maj@k.
"""

from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dapo.spec.tree.graders import BUILT_IN
from services.verifier.graders import Grader, build_grader

pytest.importorskip("math_verify", reason="pip install '.[graders]'")

GRADERS: dict[str, Grader] = {name: build_grader(BUILT_IN[name]) for name in ("math_verify", "math_dapo")}
WIDE = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
POWERS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
UNICODE_FRACTIONS = {(1, 2): "½", (1, 3): "⅓", (3, 4): "¾", (2, 5): "⅖", (7, 8): "⅞"}
SIGNS = {"-": ("-", "−", "－", "–"), "": ("", "+")}
AROUND = ["%s", "$%s$", "\\(%s\\)", "**%s**", "`%s`", "**$%s$**", "%s.", "$%s$.", " %s "]
Value = object
Family = Callable[[st.DrawFn], tuple[Value, list[str]]]
"""Draws a value, and all its forms."""


def signed(value: Fraction, forms: list[str]) -> list[str]:
    return [f"{sign}{form}" for form in forms for sign in SIGNS["-" if value < 0 else ""]]


def integer_forms(number: int) -> list[str]:
    digits, grouped = str(number), f"{number:,}"
    spaces = ("\\,", "\u2009", "\u202f", "{,}", "~")
    return [digits, f"{digits}.0", f"{digits}.00", grouped, digits.translate(WIDE), f"0{digits}"] + [
        grouped.replace(",", space) for space in spaces
    ]


def fraction_forms(value: Fraction) -> list[str]:
    """Of a positive value that is no integer; decimals where they end."""
    top, bottom = value.numerator, value.denominator
    whole, rest = divmod(top, bottom)
    parts = [(top, bottom), (3 * top, 3 * bottom)]
    forms = [form % part for part in parts for form in ("\\frac{%d}{%d}", "\\dfrac{%d}{%d}", "%d/%d")]
    forms += [f"{top}⁄{bottom}"]
    if whole:
        forms += [f"{whole} {rest}/{bottom}", f"{whole}\\frac{{{rest}}}{{{bottom}}}"]
    if (rest, bottom) in UNICODE_FRACTIONS:
        forms.append(f"{whole or ''}{UNICODE_FRACTIONS[rest, bottom]}")
    if 10**4 % bottom == 0:
        scaled = value * 10**4
        decimal = f"{whole}.{scaled.numerator % 10**4:04d}"
        forms += [decimal, f"{decimal}00", decimal.translate(WIDE), f"{scaled}e-4", f"{scaled}E-04"]
        forms += [f"{scaled} \\times 10^{{-4}}", f"{scaled}\\cdot 10^{{-4}}", f"{scaled}×10⁻⁴"]
    return forms


def number(draw: st.DrawFn) -> tuple[Value, list[str]]:
    bottom = draw(st.sampled_from([1, 1, 2, 3, 4, 5, 7, 8, 10, 16, 100]))
    value = Fraction(draw(st.integers(-3000, 3000)), bottom)
    if value.denominator > 1:
        return value, signed(value, fraction_forms(abs(value)))
    return value, signed(value, integer_forms(abs(value.numerator))) if value else ["0", "0.0", "00"]


def percentage(draw: st.DrawFn) -> tuple[Value, list[str]]:
    tenths = draw(st.integers(1, 3000))
    text = f"{tenths / 10:.1f}"
    return tenths, [f"{text}\\%", f"{text}%", f"{text}0\\%", f"{text} percent", f"{text} \\text{{ percent}}"]


UNITS = {
    "km": ["km", "kilometers", "kilometres"], "m": ["m", "meters", "metre"], "cm": ["cm", "centimeters"],
    "m/s": ["m/s", "meters per second"], "cm^2": ["cm^2", "square centimeters"], "h": ["hours", "h", "hrs"],
    "min": ["minutes", "min"], "mi/h": ["mph", "miles per hour"], "dollar": ["dollars"], "apple": ["apples"],
}  # fmt: skip


def measure(draw: st.DrawFn) -> tuple[Value, list[str]]:
    amount, unit = draw(st.integers(1, 30)), draw(st.sampled_from(sorted(UNITS)))
    forms = [f"{amount} {word}" for word in UNITS[unit] if len(word) > 1 and "/" not in word]
    for word in UNITS[unit]:
        name, _, power = word.partition("^")
        raised = f"^{{{power}}}" if power else ""
        forms += [f"{amount}{markup}{raised}" % name for markup in (" \\text{%s}", "\\mathrm{%s}", " \\mathrm{~%s}")]
    return (amount, unit), forms


def root(draw: st.DrawFn) -> tuple[Value, list[str]]:
    factor, radicand = draw(st.integers(1, 9)), draw(st.sampled_from([2, 3, 5, 6, 7, 10, 11, 13]))
    before = "" if factor == 1 else str(factor)
    forms = [
        f"{before}\\sqrt{{{radicand}}}",
        f"{before}√{radicand}",
        f"{before}√({radicand})",
        f"{before}\\sqrt({radicand})",
    ]
    forms += [f"{before}\\sqrt {radicand}" if radicand < 10 else f"{before}\\sqrt{{ {radicand} }}"]
    return (factor, radicand), forms


def power(draw: st.DrawFn) -> tuple[Value, list[str]]:
    base, exponent = draw(st.sampled_from("xynB")), draw(st.integers(2, 30) | st.integers(-9, -1))
    forms = [f"{base}^{{{exponent}}}", f"{base}{str(exponent).translate(POWERS)}", f"{base} ^ {{{exponent}}}"]
    return (base, exponent), forms + [f"{base}^{exponent}"] * (0 < exponent < 10)


def pair(draw: st.DrawFn) -> tuple[Value, list[str]]:
    a, b = draw(st.integers(-9, 9)), draw(st.integers(-9, 9))
    forms = [f"({a},{b})", f"({a}, {b})", f"\\left({a}, {b}\\right)", f"( {a},\\, {b} )", f"({a},{b})".translate(WIDE)]
    return (a, b), [form.replace("-", minus) for form in forms for minus in "-−"]


def interval(draw: st.DrawFn) -> tuple[Value, list[str]]:
    low, length = draw(st.integers(-9, 9)), draw(st.integers(1, 9))
    opening, closing = draw(st.sampled_from("[(")), draw(st.sampled_from("])"))
    high = low + length
    signs = ("<" if opening == "(" else "\\le", "<" if closing == ")" else "\\le")
    forms = [
        f"{opening}{low},{high}{closing}",
        f"{opening}{low}, {high}{closing}",
        f"\\left{opening}{low},{high}\\right{closing}",
    ]
    forms += [f"{low} {signs[0]} x {signs[1]} {high}", f"x \\in {opening}{low},{high}{closing}"]
    return (opening, low, high, closing), [form.replace("\\le ", "≤ ") for form in forms] + forms


def option(draw: st.DrawFn) -> tuple[Value, list[str]]:
    letter = draw(st.sampled_from("ABCDEFGHIJ"))
    return letter, [
        *(letter, f"({letter})", f"{letter}.", f"{letter})", f"\\text{{{letter}}}", f"\\text{{({letter})}}"),
        *(f"\\textbf{{({letter})}}", f"Option {letter}", f"{letter}. 12", f"({letter}) 12", f"**{letter}**"),
    ]


MATH_VERIFY = [number, percentage, measure, root, power, pair, interval, option]
MATH_DAPO = [number, percentage, measure, root, power, pair, option]
CASES = [("math_verify", family) for family in MATH_VERIFY] + [("math_dapo", family) for family in MATH_DAPO]


def spelling(family: Family, name: str, forms: list[str]) -> list[str]:
    """What the rule of `name` reads: math_dapo compares as text what is no number, so of a formula only typography."""
    if name == "math_dapo" and family in (root, power, pair):
        return [form for form in forms if not any(mark in form for mark in ("\\left", "{ ", " ^ "))]
    return forms


def ids(case: object) -> str:
    return case if isinstance(case, str) else case.__name__  # type: ignore[attr-defined]


@pytest.mark.parametrize(("name", "family"), CASES, ids=ids)
def test_a_value_is_itself_in_any_two_forms_and_no_other(name: str, family: Family) -> None:
    grader = GRADERS[name]

    @settings(deadline=None, max_examples=120)
    @given(st.data())
    def check(data: st.DataObject) -> None:
        (one, forms), (other, others) = data.draw(st.composite(family)()), data.draw(st.composite(family)())
        forms, others = spelling(family, name, forms), spelling(family, name, others)
        around = data.draw(st.sampled_from(AROUND)) if family is not option else "%s"
        label = data.draw(st.sampled_from(["Answer: %s", "Some steps.\n**Answer:** %s", "Final Answer: %s"]))
        answer, again = data.draw(st.sampled_from(forms)), data.draw(st.sampled_from(forms))
        text, gold = label % (around % answer), data.draw(st.sampled_from(others))
        assert grader.gold_problem(gold) == ""
        assert grader(text, again).correct, (text, again)
        assert grader(text, gold).correct == (one == other), (text, gold)
        assert grader.answer_class is not None
        assert grader.answer_class(text) == grader.answer_class(label % again), (text, again)
        if family is not measure:  # classes know no units, as 5 may be 5 km
            assert (grader.answer_class(text) == grader.answer_class(label % gold)) == (one == other), (text, gold)

    check()


@pytest.mark.parametrize("unit", ["cm^2", "ft^3", "inches^2", "\\text{km}^2"])
def test_the_exponent_of_a_unit_is_none_of_the_number_before_it(unit: str) -> None:
    """Without the unit a power of ten would be left."""
    grader = GRADERS["math_dapo"]
    assert grader.answer_class is not None
    for value, other in (("10", "100"), ("100", "10000"), ("7", "49")):
        text = f"Answer: {value} {unit}"
        assert grader(text, f"{value} {unit}").correct
        assert grader(text, value).correct
        assert not grader(text, other).correct
        assert not grader(f"Answer: {other}", f"{value} {unit}").correct
        assert grader.answer_class(text) == grader.answer_class(f"Answer: {value}")
    assert not grader("Answer: 10^2", f"10 {unit}").correct
