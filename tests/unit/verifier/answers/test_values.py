"""Values that people write in other ways: numbers, complex numbers, sets, times of day, named values, units, products,
lists. Each is itself in its forms, and no neighbour of it. What `math_verify` calls equal votes as one.
"""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("math_verify", reason="pip install '.[graders]'")

from dapo.spec.tree.graders import BUILT_IN
from services.verifier.graders import Verdict, build_grader

GRADERS = {name: build_grader(BUILT_IN[name]) for name in ("math_dapo", "math_verify")}


def verify(answer: str, gold: str) -> Verdict:
    return GRADERS["math_verify"](f"\\boxed{{{answer}}}", gold)


def vote(answer: str) -> str:
    classify = GRADERS["math_verify"].answer_class
    assert classify is not None
    return classify(f"\\boxed{{{answer}}}")


OTHER_UNITS = [
    ("mg", "Mg"), ("mA", "MA"), ("mW", "MW"), ("Pa", "pa"), ("mm", "Mm"), ("mL", "ML"), ("mHz", "MHz"), ("mPa", "MPa"),
    ("kG", "kg"), ("m", "M"), ("g", "G"), ("s", "S"), ("h", "H"), ("t", "T"), ("ms", "m"), ("Ns", "N"), ("m/s", "m/S"),
    ("mbar", "Mbar"), ("Mbps", "MBps"), ("Gb", "GB"), ("mmol", "Mmol"), ("Pg", "pg"), ("cal", "Cal"), ("GB", "MB"),
    ("mlux", "Mlux"), ("mtesla", "Mtesla"), ("Mgram", "mgram"), ("mEq", "MEq"), ("meV", "MeV"),
    ("nm", "Nm"), ("pF", "PF"),
]  # fmt: skip
SAME_UNITS = [
    ("KM", "km"), ("Kg", "kg"), ("KG", "kg"), ("Meters", "m"), ("ml", "mL"), ("l", "L"), ("Hours", "hours"),
    ("kms", "km"),
    ("MPH", "mph"), ("Apples", "apples"), ("Red Apples", "red apples"), ("hz", "Hz"), ("KW", "kW"), ("kpa", "kPa"),
    ("LBS", "pounds"), ("Ft", "feet"), ("Secs", "s"), ("Mg", "Mg"),
    ("Square Feet", "ft^2"), ("Prizes", "prizes"), ("Plants", "plants"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), OTHER_UNITS)
def test_the_case_of_a_units_sign_counts(one: str, other: str) -> None:
    for answer, gold in ((one, other), (other, one)):
        assert not verify(f"5\\text{{ {answer}}}", f"5\\text{{ {gold}}}").correct
        assert not GRADERS["math_dapo"](f"Answer: 5\\text{{ {answer}}}", f"5\\text{{ {gold}}}").correct


@pytest.mark.parametrize(("one", "other"), SAME_UNITS)
def test_the_case_of_a_units_name_does_not_count(one: str, other: str) -> None:
    assert verify(f"5\\text{{ {one}}}", f"5\\text{{ {other}}}").correct


SAME = [
    ("0.\\overline{3}", "1/3"), ("0.(3)", "1/3"), ("0.\\dot3", "1/3"), ("0.\\dot{3}", "\\frac13"), ("0.1(6)", "1/6"),
    ("\\frac13", "0.\\overline{3}"), ("0.\\overline{142857}", "1/7"), ("-0.\\bar{3}", "-1/3"), ("0.\\overline{9}", "1"),
    ("0.\\dot{1}4285\\dot{7}", "1/7"), ("12.3\\overline{45}", "679/55"), ("x=0.\\overline{3}", "1/3"),
    ("i^2", "-1"), ("-1", "i^2"), ("e^{i\\pi}", "-1"), ("e^{\\pi i}", "-1"), ("i^3", "-i"), ("(1+i)^2", "2i"),
    ("e^{i\\pi/3}", "\\frac12+\\frac{\\sqrt3}{2}i"), ("\\frac{1}{i}", "-i"), ("\\sqrt{-1}", "i"), ("z=i", "i"),
    ("\\varnothing", "\\emptyset"), ("\\{\\}", "\\emptyset"), ("{}", "\\emptyset"), ("∅", "\\varnothing"),
    ("\\emptyset", "\\{ \\}"), ("\\text{the empty set}", "\\emptyset"), ("\\emptyset", "\\text{empty set}"),
    ("\\text{all real numbers}", "\\mathbb{R}"), ("\\text{all real numbers}", "(-\\infty,\\infty)"),
    ("(-\\infty,\\infty)", "\\mathbb{R}"), ("all reals", "\\mathbb R"), ("x \\in \\mathbb{R}", "(-\\infty,+\\infty)"),
    ("-\\infty<x<\\infty", "\\R"), ("ℝ", "\\text{all real numbers}"),
    ("\\{x \\mid x>2\\}", "(2,\\infty)"), ("\\{x \\mid x>2\\}", "x>2"), ("\\{x | x>2\\}", "x>2"),
    ("\\left\\{x : x>2\\right\\}", "x>2"), ("x>2", "\\{x \\mid x>2\\}"), ("\\{t\\mid t>2\\}", "\\{x\\mid 2<x\\}"),
    ("\\{x\\in\\mathbb{R} \\mid 1<x\\le 3\\}", "(1,3]"), ("(2,\\infty)", "\\{x\\mid x>2\\}"),
    ("\\{x:x<-1\\text{ or }x>2\\}", "(-\\infty,-1)\\cup(2,\\infty)"),
    ("1 234 567", "1234567"), ("1234567", "1 234 567"), ("-1 234.5", "-1234.5"), ("1 234", "1,234"),
    ("12:30 PM", "12:30\\text{ pm}"), ("12:30 PM", "12:30\\text{ p.m.}"), ("12:30\\text{ P.M.}", "12:30 pm"),
    ("12:30pm", "12:30 PM"), ("9:05 a.m.", "09:05 AM"),
    ("(-2 1/2,9.00)", "(-5/2,9)"), ("(7,-5e0)", "(7,-5)"), ("(1\\frac12,3)", "(\\frac32,3)"), ("(1.5e3,x)", "(1500,x)"),
    ("\\{1 1/2, 3\\}", "\\{3/2,3\\}"), ("1 1/2, 3", "3/2, 3"), ("[1 1/2,3)", "[1.5,3)"), ("(0.(3), 1)", "(1/3,1)"),
    ("(1 234, x)", "(1234, x)"), ("x > 2 1/2", "(5/2,\\infty)"),
    ("\\text{15 cm}", "15"), ("\\text{15 cm}", "15\\text{ cm}"), ("15", "\\text{15 cm}"), ("\\mathrm{15~cm}", "15"),
    ("\\text{18 apples}", "18"), ("18 m^2", "18"), ("18 m^2", "18\\text{ m}^2"), ("18m^2", "18\\text{ m}^2"),
    ("18 m^{2}", "18"), ("18 GB", "18"), ("18GB", "18"), ("18 GB", "18\\text{ GB}"), ("18\\text{ kWh}", "18"),
    ("100^\\circ C", "100"), ("100^\\circ\\text{C}", "100"), ("100°C", "100^{\\circ}\\mathrm{C}"),
    ("100^\\circ C", "100\\text{ degrees Celsius}"), ("212^\\circ F", "212"),
    ("x=3,y=2", "(3,2)"), ("y=2,x=3", "(3,2)"), ("(x,y)=(3,2)", "(3,2)"), ("m=3,b=2", "(3,2)"), ("h=3,k=2", "(3,2)"),
    ("(3,2)", "(x,y)=(3,2)"), ("x=2,y=3", "y=3,x=2"), ("(x,y)=(2,3)", "y=3, x=2"), ("x_2=3,x_1=2", "(2,3)"),
    ("(y=2,x=3)", "(3,2)"), ("p=1, k=2", "p=1, k=2"),
    ("C+A\\times B", "A\\times B+C"), ("a\\times b", "b\\times a"), ("2\\times A", "A\\times 2"), ("A+B", "B+A"),
    ("\\vec{a}\\cdot\\vec{b}", "\\vec{b}\\cdot\\vec{a}"), ("2RL", "2LR"), ("L\\times W", "LW"), ("A^{-1}B", "A^{-1} B"),
    ("2\\pi\\boldsymbol{r}", "2\\pi r"),
]  # fmt: skip
OTHERS = [
    ("0.\\overline{3}", "0.3"), ("0.3", "0.(3)"), ("0.(3)", "3/10"), ("0.1\\overline{6}", "0.16"), ("0.333", "1/3"),
    ("2(3)", "7/3"), ("\\overline{3}", "3"), ("0.\\overline{12}", "0.1\\overline{2}"), ("0.(3)", "0"), ("1.(3)", "1.3"),
    ("i^2", "1"), ("e^{i\\pi}", "1"), ("i", "-i"), ("e^{i}", "e"), ("2+3i", "2-3i"), ("i^2+x", "x"), ("i", "-1"),
    ("\\emptyset", "0"), ("\\{0\\}", "\\emptyset"), ("\\{\\emptyset\\}", "\\emptyset"), ("0", "\\{\\}"), ("{}", "0"),
    ("\\phi", "\\emptyset"), ("()", "\\emptyset"), ("\\emptyset", "\\mathbb{R}"),
    ("\\text{all real numbers except }0", "\\mathbb{R}"), ("\\text{all positive real numbers}", "\\mathbb{R}"),
    ("\\mathbb{Z}", "\\mathbb{R}"), ("R", "\\mathbb{R}"), ("\\mathbb{R}^2", "\\mathbb{R}"), ("(0,\\infty)", "\\R"),
    ("\\text{not all real numbers}", "\\mathbb{R}"), ("\\text{all integers}", "\\mathbb{R}"),
    ("\\text{all real numbers}", "x>2"), ("\\mathbb{R}^+", "\\mathbb{R}"),
    ("\\{x\\mid x>2\\}", "x>3"), ("\\{x\\mid x>2\\}", "x\\ge 2"), ("\\{x\\mid x<2\\}", "x>2"),
    ("\\{x\\mid x>2\\}", "2"),
    ("\\{x\\in\\mathbb{Z}\\mid x>2\\}", "(2,\\infty)"), ("\\{x\\mid x>2\\}", "y>2"), ("\\{y\\mid x>2\\}", "x>2"),
    ("\\{2x\\mid x>2\\}", "(2,\\infty)"), ("\\{x\\mid x>2, x<5\\}", "x>2"), ("\\{x\\mid x>a\\}", "x>2"),
    ("1 23", "123"), ("12 34", "1234"), ("1 2345", "12345"), ("1234 567", "1234567"), ("0 123", "123"),
    ("1 234", "1, 234"), ("1 234 567", "234567"), ("1 234", "1.234"), ("3 400", "400"), ("1 000", "1"),
    ("12:30 PM", "12:30 AM"), ("12:30 PM", "12:30\\text{ a.m.}"), ("12:31 PM", "12:30 pm"), ("12:30 PM", "12:30"),
    ("2:5", "12:30\\text{ pm}"), ("12:30 pn", "12:30 pm"), ("1:30 PM", "11:30 PM"),
    ("(-2 1/2,9)", "(-3/2,9)"), ("(2 1/2,9)", "(1,9)"), ("(2 1,9)", "(21,9)"), ("(2 1,9)", "(2,9)"),
    ("(5e2,1)", "(10e,1)"),
    ("(7,-5e0)", "(7,5)"), ("(2 3/2,9)", "(7/2,9)"), ("(1 1/2,3)", "(11/2,3)"), ("(5e,1)", "(5,1)"),
    ("(5e2,1)", "(5e^2,1)"),
    ("2 1/2, 3", "1, 3"), ("(1 234,5)", "(234,5)"),
    ("\\text{15 cm}", "16"), ("\\text{15 cm}", "15\\text{ m}"), ("\\text{15 thousand}", "15"),
    ("\\text{15 or 16}", "15"),
    ("\\text{15 percent}", "15"), ("\\text{15 x}", "15"), ("\\text{3 cm or 4}", "3"), ("\\text{not 15 cm}", "15"),
    ("18 m^2", "18\\text{ m}"), ("18 m^2", "18\\text{ cm}^2"), ("18 m^3", "18\\text{ m}^2"), ("18m^2", "18"),
    ("18 x^2", "18"), ("18", "18 m^2"), ("18 m^2n", "18"), ("18 m^2", "324"), ("3 + 18 m^2", "21"), ("18 s^2", "18"),
    ("18 GB", "18\\text{ MB}"), ("18 Gb", "18 GB"), ("18 AB", "18"), ("18 G", "18"), ("18 kW", "18\\text{ MW}"),
    ("100^\\circ C", "100^\\circ F"), ("100^\\circ C", "100\\text{ K}"), ("100 C", "100"), ("100^\\circ x", "100"),
    ("100^\\circ C", "100 C"), ("100^\\circ CD", "100"), ("x^\\circ C", "x"),
    ("y=3,x=2", "(3,2)"), ("y=3, x=2", "3, 2"), ("b=3,a=2", "(3,2)"), ("q=3,p=2", "(3,2)"), ("x_2=3,x_1=2", "(3,2)"),
    ("z=1,y=2,x=3", "(1,2,3)"), ("(y,x)=(3,2)", "(3,2)"), ("(x,y)=(3,2)", "x=2,y=3"), ("(y=3,x=2)", "(3,2)"),
    ("y=3 \\text{ and } x=2", "(3,2)"), ("k=3,h=2", "(3,2)"), ("w=5,l=3", "(5,3)"), ("x=2,y=3", "(3,2)"),
    ("b=3,m=2", "(3,2)"),
    ("A\\times B", "B\\times A"), ("A×B", "B×A"), ("\\vec{a}\\times\\vec{b}", "\\vec{b}\\times\\vec{a}"),
    ("\\mathbf{a}\\times\\mathbf{b}", "\\mathbf{b}\\times\\mathbf{a}"),
    ("\\hat{i}\\times\\hat{j}", "\\hat{j}\\times\\hat{i}"),
    ("\\boldsymbol{a}\\times\\boldsymbol{b}", "\\boldsymbol{b}\\times\\boldsymbol{a}"),
    ("\\vec u\\times\\vec v", "\\vec v\\times\\vec u"),
    ("\\mathbb{R}\\times\\mathbb{Z}", "\\mathbb{Z}\\times\\mathbb{R}"), ("A\\times B\\times C", "C\\times A\\times B"),
    ("2A\\times B", "2B\\times A"), ("A\\times B+C", "B\\times A+C"), ("A_1\\times B_1", "B_1\\times A_1"),
    ("A^{-1}B", "BA^{-1}"), ("A^TB", "BA^T"), ("P^{-1}AP", "PAP^{-1}"), ("AB-BA", "BA-AB"), ("0", "AB-BA"),
]  # fmt: skip


@pytest.mark.parametrize(("answer", "gold"), SAME)
def test_a_value_is_equal_in_all_its_forms(answer: str, gold: str) -> None:
    assert GRADERS["math_verify"].gold_problem(gold) == ""
    assert verify(answer, gold).correct


@pytest.mark.parametrize(("answer", "gold"), OTHERS)
def test_a_neighbour_of_a_value_is_another(answer: str, gold: str) -> None:
    assert not verify(answer, gold).correct


PARTS = st.integers(0, 12), st.text("0123456789", max_size=3), st.text("0123456789", min_size=1, max_size=4)


@settings(deadline=None, max_examples=100)
@given(*PARTS, st.integers(1, 500), st.integers(1, 500))
def test_a_repeating_decimal_is_its_value(whole: int, once: str, period: str, top: int, bottom: int) -> None:
    value = whole + Fraction(int(once + period) - int(once or "0"), (10 ** len(period) - 1) * 10 ** len(once))
    for form in (f"{whole}.{once}\\overline{{{period}}}", f"{whole}.{once}({period})"):
        assert verify(form, f"{value.numerator}/{value.denominator}").correct
        assert verify(f"({form}, x)", f"({value.numerator}/{value.denominator}, x)").correct
        assert verify(form, f"{top}/{bottom}").correct == (abs(value - Fraction(top, bottom)) < Fraction(1, 10**6))


@pytest.mark.parametrize(("opening", "closing"), [("\\{", "\\}"), ("(", ")"), ("", "")])
def test_a_long_list_of_numbers_is_compared_without_the_library(opening: str, closing: str) -> None:
    def listed(numbers: list[int]) -> str:
        return f"{opening}{','.join(map(str, numbers))}{closing}"

    numbers = list(range(300))
    assert verify(listed(numbers).replace(",", ", "), listed(numbers)).correct
    assert verify(listed(numbers[::-1]), listed(numbers)).correct == (opening != "(")
    others = [listed([*numbers[:-1], 300]), listed(numbers[:-1]), "x+1", "(1,2)", "7"]
    for other in others:
        assert verify(other, listed(numbers)).reason == "different"
        assert verify(listed(numbers), other).reason == "different"


def test_a_long_list_of_formulas_is_too_complex() -> None:
    formulas = ",".join(f"x^{power}" for power in range(13))
    assert verify(f"\\{{{formulas}\\}}", "\\{x, y\\}").reason == "too_complex"
    assert verify(f"\\{{{formulas}\\}}", f"\\{{{formulas}\\}}").correct


@pytest.mark.parametrize(
    ("one", "other"),
    [("x=1,y=2", "(1,2)"), ("y=2,x=1", "(1,2)"), ("(x,y)=(1,2)", "(1, 2)"), ("\\{x\\mid x>2\\}", "(2,\\infty)"),
     ("0.\\overline{3}", "1/3"), ("i^2", "-1"), ("\\{\\}", "\\emptyset"), ("\\text{all real numbers}", "\\mathbb{R}"),
     ("(-2 1/2, 9)", "(-5/2,9)"), ("1 234", "1234"), ("12:30 PM", "12:30\\text{ p.m.}"), ("\\text{15 cm}", "15")],
)  # fmt: skip
def test_what_math_verify_calls_equal_votes_as_one(one: str, other: str) -> None:
    assert verify(one, other).correct
    assert vote(one) == vote(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [("2x", "2X"), ("x", "X"), ("xX", "x^2"), ("y=1,x=2", "(1,2)"), ("12:30 AM", "12:30 PM"), ("i", "-i"),
     ("A\\times B", "B\\times A"), ("\\{x\\mid x>2\\}", "\\{x\\mid x\\ge 2\\}"), ("0.\\overline{3}", "0.3")],
)  # fmt: skip
def test_what_math_verify_calls_different_votes_apart(one: str, other: str) -> None:
    assert not verify(one, other).correct
    assert vote(one) != vote(other)
