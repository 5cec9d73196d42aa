"""Harmless typography is not an error, and no typography makes another value right."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dapo.spec.tree.graders import BUILT_IN
from services.verifier.graders import build_grader, text_for_grader

pytest.importorskip("math_verify", reason="pip install '.[graders]'")

MATH_VERIFY = BUILT_IN["math_verify"]
grade_math = build_grader(MATH_VERIFY)


def correct(answer: str, gold: str) -> bool:
    return grade_math(f"Answer: {answer}", gold).correct and grade_math(f"\\boxed{{{answer}}}", gold).correct


EQUAL = [
    ("\\sqrt{1/2}", "√½"),
    ("13", "**13**"),
    ("13", "`13`"),
    ("13", "*13*"),
    ("13", "__13__"),
    ("13", "\\(13\\)"),
    ("13", "13."),
    ("13", "**13.**"),
    ("13", "１３"),
    ("-13", "−13"),
    ("-13", "–13"),
    ("-13", "－13"),
    ("1.5", "１．５"),
    ("10000", "10\u2009000"),
    ("10000", "10\u202f000"),
    ("10000", "10\\,000"),
    ("10000", "10\u00a0000"),
    ("3.141592", "3.141\\,592"),
    ("1234567", "1\\;234\\;567"),
    ("34", "34.0"),
    ("34", "34.00"),
    ("0.001", "1e-3"),
    ("1500", "1.5E3"),
    ("0.001", "10⁻³"),
    ("1.5\\times 10^{3}", "1500"),
    ("6.02e23", "6.02 \\times 10^{23}"),
    ("5/4", "1 1/4"),
    ("-5/4", "-1 1/4"),
    ("1.5", "1½"),
    ("1/2", "½"),
    ("\\frac{3}{4}", "3⁄4"),
    ("\\sqrt{2}", "√2"),
    ("\\sqrt{2}", "\\sqrt(2)"),
    ("\\sqrt{2}", "\\sqrt 2"),
    ("5\\sqrt{2}", "5√2"),
    ("5\\sqrt{2}", "5√(2)"),
    ("\\sqrt{x+1}", "√(x+1)"),
    ("\\sqrt[3]{5}", "∛5"),
    ("x^4", "x⁴"),
    ("x^{10}", "x¹⁰"),
    ("x^{-1}", "x⁻¹"),
    ("2^n", "2ⁿ"),
    ("52_8", "52₈"),
    ("x_1+1", "x₁+1"),
    ("\\frac{1}{2}", "\\dfrac{1}{2}"),
    ("1.6 \\mathrm{~cm}", "1.6"),
    ("1.6", "1.6 \\mathrm{~cm}"),
    ("1.6", "1.6~\\text{cm}"),
    ("1.6", "1.6 centimetres"),
    ("5 \\text{ meters}", "5 \\text{ metres}"),
    ("5 \\mathrm{~m/s}", "5"),
    ("5 \\mathrm{~m} / \\mathrm{s}", "5"),
    ("5", "5 cm^2"),
    ("5", "5 \\text{ cm}^{2}"),
    ("5 hours", "5 hrs"),
    ("18", "18 apples"),
    ("18", "18 red apples"),
    ("28\\%", "28 percent"),
    ("28\\%", "28 \\text{ percent}"),
    ("28 percent", "28\\%"),
    ("28\\%", "28 per cent"),
    ("2x+2", "2[x+1]"),
    ("2[x+1]", "2(x+1)"),
    ("[0,1)", "[0,1)"),
    ("(x+1)^2", "[x+1]^2"),
    ("B", "(B)"),
    ("B", "B."),
    ("B", "B) 12"),
    ("B", "B: Paris"),
    ("B", "**(B)** Paris"),
    ("B", "\\text{(B) } 12"),
    ("B. Paris", "B"),
    ("(B)", "Option B"),
    ("B. Paris", "(B) Paris"),
    ("B", "\\textbf{(B)}\\ 12"),
    ("B", "\\text{B}"),
    ("x+1", "x+1 \\text{ for all } x"),
    ("x+1", "x+1, \\quad x \\neq 0"),
    ("c^2", "c^2 \\text{ where } c>0"),
    ("x+1, x \\neq 0", "x+1"),
    ("2n+1", "2n+1 \\text{ with } n \\in \\mathbb{Z}"),
    ("x+1", "x+1 for all real x"),
    ("(2,\\infty)", "x > 2"),
    ("x > 2", "(2,\\infty)"),
    ("x>2", "2<x"),
    ("[3,\\infty)", "x ≥ 3"),
    ("(-1,2]", "-1<x\\le 2"),
    ("-1 \\leq x \\leq 2", "[-1,2]"),
    ("(-\\infty,-1)\\cup(2,\\infty)", "x<-1 or x>2"),
    ("(0,1)", "x \\in (0,1)"),
    ("2>x>1", "(1,2)"),
    ("5 m", "5 meters"),
    ("5 meters", "5 m"),
    ("5 km", "5 kilometres"),
    ("5 \\text{ km}", "5 \\mathrm{~km}"),
    ("5 \\mathrm{~m/s}", "5 meters per second"),
    ("5 mph", "5 miles per hour"),
    ("12 \\text{ cm}^2", "12 square centimeters"),
    ("12 \\text{ cm}^2", "12 square units"),
    ("18 apples", "18 red apples"),
    ("60^\\circ", "60 degrees"),
    ("12 \\text{ in}", "12 inches"),
    ("B", "b"),
    ("(B)", "(b)"),
    ("B", "(b)."),
    ("xY+1", "1+xY"),
]


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_typography_that_changes_nothing(gold: str, answer: str) -> None:
    assert correct(answer, gold)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("2^4", "2⁴"),
        ("\\sqrt{2}", "√2"),
        ("5\\sqrt{2}", "5√2"),
        ("\\frac{1}{2}", "½"),
        ("-34", "–34"),
        ("34", "$34$ dollars"),
    ],
)
def test_the_default_grader_knows_typography_too(gold: str, answer: str) -> None:
    assert build_grader(BUILT_IN["math_dapo"])(f"Answer: {answer}", gold).correct


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("5 \\text{ m}", "5 \\text{ km}"),
        ("5\\text{ hours}", "5\\text{ minutes}"),
        ("12 \\text{ cm}^3", "12 \\text{ cm}^2"),
        ("11/2", "1 1/2"),
        ("34", "3 4"),
        ("b", "B"),
    ],
)
def test_the_default_grader_tells_units_and_numbers_apart(gold: str, answer: str) -> None:
    grade = build_grader(BUILT_IN["math_dapo"])
    assert grade(f"Answer: {gold}", gold).correct
    assert grade(f"Answer: {answer}", answer).correct
    assert not grade(f"Answer: {answer}", gold).correct


DIFFERENT = [
    ("24", "2⁴"),
    ("2", "2 2/3"),
    ("10", "4 10/3"),
    ("40/3", "4 10/3"),
    ("12", "3 4"),
    ("7", "3 4"),
    ("52_8", "528"),
    ("20", "2⁰"),
    ("24", "2⁴"),
    ("52", "5√2"),
    ("7", "7 percent"),
    ("5", "5 thousand"),
    ("5", "5 dozen"),
    ("A", "C. 12"),
    ("A", "A or B"),
    ("A", "(A) or (B)"),
    ("A", "A) B)"),
    ("A", "A, B"),
    ("B", "(A) or B"),
    ("A. 12", "A. 13"),
    ("3", "3 \\text{ if } x>0, 4 \\text{ otherwise}"),
    ("3", "3 \\text{ for } x>0, 4 \\text{ for } x<0"),
    ("(2,\\infty)", "x \\ge 2"),
    ("[2,\\infty)", "x>2"),
    ("(1,2)", "1<x or x<2"),
    ("(-1,2]", "-1\\le x<2"),
    ("x>2", "(-\\infty,2)"),
    ("-3", "–-3"),
    ("10000", "10 000 0"),
    ("1e3", "1e4"),
    ("0.5", "5½"),
    ("13", "1*3"),
    ("25", "2**5"),
    ("x>2 or x<1", "(2,\\infty)"),
    ("100", "10²0"),
    ("a+b", "a*b*"),
    ("5 m", "5 km"),
    ("5\\text{ m}", "5\\text{ km}"),
    ("5 \\text{ meters}", "5 feet"),
    ("5 hours", "5 minutes"),
    ("5 \\mathrm{~m/s}", "5 m"),
    ("12 \\text{ cm}^3", "12 \\text{ cm}^2"),
    ("12 cm^2", "12 cm"),
    ("5\\sqrt{2}\\text{ m}", "5\\sqrt{2}\\text{ cm}"),
    ("12 dollars", "12 euros"),
    ("5 oranges", "5 apples"),
    ("60^\\circ", "60 cm"),
    ("60^\\circ", "60 radians"),
    ("500 cm", "5 m"),
    ("b", "B"),
    ("x", "X"),
    ("2b", "2B"),
    ("b+1", "B+1"),
    ("2a", "a+A"),
    ("B", "c"),
]


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_typography_makes_no_other_value_right(gold: str, answer: str) -> None:
    assert not grade_math(f"Answer: {answer}", gold).correct
    assert not grade_math(f"\\boxed{{{answer}}}", gold).correct


FORMS = [
    "%s",
    "$%s$",
    "\\(%s\\)",
    "**%s**",
    "`%s`",
    "*%s*",
    "**$%s$**",
    "%s.",
    "$%s$.",
    "**%s.**",
    " %s ",
    "\\mathbf{%s}",
    "\\text{%s}",
]
LABELS = [
    "Answer: %s",
    "**Answer:** %s",
    "**Answer: %s**",
    "Answer：%s",
    "**Answer**: %s",
    "Final Answer: %s",
    "`Answer`: %s",
]


def spellings(number: int) -> list[str]:
    sign, digits = "-" * (number < 0), str(abs(number))
    grouped = f"{abs(number):,}"
    wide = digits.translate({ord(d): ord(d) + 0xFEE0 for d in "0123456789"})
    return [
        *(f"{sign}{one}" for one in (digits, digits + ".0", grouped, wide, grouped.replace(",", "\\,"), "0" + digits)),
        *(f"{sign}{grouped.replace(',', space)}" for space in ("\u2009", "\u202f", "{,}")),
        *(f"{minus}{digits}" for minus in (("−", "－") if sign else ("+", ""))),
    ]


@settings(deadline=None, max_examples=300)
@given(
    st.data(), st.integers(-(10**7), 10**7), st.integers(-(10**7), 10**7), st.sampled_from(["math_verify", "math_dapo"])
)
def test_a_number_is_itself_in_any_two_forms_and_no_other(data: st.DataObject, one: int, other: int, name: str) -> None:
    answer = data.draw(st.sampled_from(FORMS)) % data.draw(st.sampled_from(spellings(one)))
    gold = data.draw(st.sampled_from(spellings(other)))
    text = data.draw(st.sampled_from(LABELS)) % answer
    read = text_for_grader(BUILT_IN[name], f"Some steps.\n{text}")
    assert isinstance(read, str)
    grade = build_grader(BUILT_IN[name])
    assert grade(read, gold).correct == (one == other)
    assert grade(read, data.draw(st.sampled_from(spellings(one)))).correct


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 30), st.integers(1, 30), st.integers(2, 30), st.integers(0, 40), st.integers(1, 40))
def test_a_mixed_number_is_its_value(whole: int, top: int, bottom: int, a: int, b: int) -> None:
    answer = f"{whole} {top}/{bottom}"
    value = whole + Fraction(top, bottom)
    assert grade_math(f"\\boxed{{{answer}}}", f"{value}").correct == (top < bottom)
    if Fraction(a, b) != value:
        assert not grade_math(f"\\boxed{{{answer}}}", f"{a}/{b}").correct
