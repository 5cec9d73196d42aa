"""What stands apart, is related or is marked differently is no other answer; harmless forms are the same one."""

import pytest

pytest.importorskip("math_verify", reason="pip install '.[graders]'")

from dapo.spec.tree.graders import BUILT_IN
from services.verifier.graders import Verdict, build_grader

GRADERS = {name: build_grader(BUILT_IN[name]) for name in ("math_dapo", "math_verify")}
OTHERS_OF_DAPO = [
    ("2 hours 30 minutes", "230"),
    ("2 feet 3 inches", "23"),
    ("5 dollars 20 cents", "520"),
    ("1 degrees 2", "12"),
    ("1^\\circ 2", "12"),
    ("5 ways 6 ways", "56"),
    ("5 a 6", "56"),
    ('1"2', "12"),
    ("5\\text{m}6", "56"),
    ("5\\text{}6", "56"),
    ("5\\$6", "56"),
    ("5\\ldots6", "56"),
    ("1$2", "12"),
    ("0.\\overline{3}", "0.3"),
    ("0.1\\overline{6}", "0.16"),
    ("1\\overline{6}", "16"),
    ("\\overline{12}", "12"),
    ("x >= 12", "12"),
    ("x <= 12", "12"),
    ("n != 12", "12"),
    ("5 \\neq 7 = 12", "12"),
    ("12.5 = 12", "12"),
    ("x=11=12", "12"),
    ("x=5, x=6", "6"),
    ("x=5, y=6", "6"),
    ("$5", "5 cents"),
    ("5.  6", "5.6"),
    ("5, for x=6", "6"),
    ("0.3 repeating", "0.3"),
    ("5 quintillion", "5"),
    ("5 for x = 6", "6"),
    ("5 where x=6", "6"),
    ("5 if x = 6", "6"),
    ("5; x=6", "6"),
    ("x=5 or x=6", "6"),
    ("\\(1\\)\\(2\\)", "12"),
    ("\\(1\\) \\(2\\)", "12"),
    ("\\(1\\)\\(2\\) apples", "12"),
    ("1\\(2", "12"),
    ("\\(1\\)$\\(2\\)", "12"),
    ("12 feet = 1 feet 2", "12"),
    ("A=B", "B"),
    ("$A$ = $B$", "B"),
    ("x=A=B", "B"),
    ("1 ft 2 apples", "12"),
    ("A or B", "B"),
    ("(A) or (B)", "B"),
    ("A. B", "A"),
    ("A, B", "A"),
    ("C) D", "C"),
    ("C. maybe D", "C"),
    ("(A) is wrong", "A"),
    ("A. Rome", "A. Paris"),
    ("A", "(B)"),
    ("12 percent", "12"),
    ("12%", "1200"),
    ("12%", "0.0012"),
    ("1200", "12%"),
    ("12%", "13%"),
    ("12 thousand", "12"),
    ("12 oranges", "12 apples"),
    ("12 thousand", "12 apples"),
    ("12", "12 thousand"),
    ("€5", "5 dollars"),
    ("€5", "$5"),
    ("4 sq ft", "4 ft"),
    ("4t", "4"),
    ("4 m", "4 km"),
]
SAME_OF_DAPO = [
    ("x = 12", "12"),
    ("12", "12"),
    ("1,000", "1000"),
    ("1\\,000", "1000"),
    ("1 000", "1000"),
    ("10{,}000", "10000"),
    ("1,\\!000", "1000"),
    ("12 apples", "12"),
    ("$12$ apples", "12"),
    ("12\\,", "12"),
    ("\\,12\\,", "12"),
    ("12 m^2", "12 m^2"),
    ("$34$", "34"),
    ("2+3 = 5", "5"),
    ("\\frac12", "\\frac{1}{2}"),
    ("12 dollars", "12"),
    ("$12", "12"),
    ("\\$12", "12"),
    ("0.\\overline{3}", "0.\\overline{3}"),
    ("x=5, y=6", "x=5, y=6"),
    ("12 degrees", "12"),
    ("12^\\circ", "12"),
    ("12 cm", "12"),
    ("2 hours 30 minutes", "2 hours 30 minutes"),
    ("34.0", "34"),
    ("a + b = 12", "12"),
    ("-12", "-12"),
    ("12 red apples", "12"),
    ("5 hours", "5"),
    ("5 cents", "5 cents"),
    ("1/2", "1/2"),
    ("\\text{even}", "even"),
    ("18 m/s", "18 m/s"),
    ("(1, 2)", "(1,2)"),
    ("12 km", "12 km"),
    ("(A)", "A"),
    ("A. Paris", "A"),
    ("A) Paris", "A"),
    ("A", "A. Paris"),
    ("B", "(B)"),
    ("\\text{(B)}", "B"),
    ("\\textbf{(B)}", "B"),
    ("\\text{(B) } 12", "B"),
    ("Option B", "B"),
    ("b", "B"),
    ("12%", "12"),
    ("12\\%", "12"),
    ("12\\%", "0.12"),
    ("12", "12\\%"),
    ("0.12", "12\\%"),
    ("12 percent", "12\\%"),
    ("12\\%", "12 percent"),
    ("12°", "12"),
    ("12", "12°"),
    ("18\\text{ apples}", "18"),
    ("18\\ \\text{eggs}", "18"),
    ("18\\text{ red apples}", "18"),
    ("12\\text{ years old}", "12"),
    ("\\frac{1}{2}\\text{ hours}", "0.5"),
    ("12", "12 apples"),
    ("12 red apples", "12 apples"),
    ("5 m", "5 meters"),
    ("€5", "5"),
    ("€5", "5 euros"),
    ("18 sq ft", "18"),
    ("18 square feet", "18 sq ft"),
    ("f(2) = 5", "5"),
    ("x = B", "B"),
    ("The value is $n = 34$", "34"),
]
OTHERS_OF_VERIFY = [
    ("500 = 5", "5"),
    ("x=500=5", "5"),
    ("5000=50", "50"),
    ("5=0.05", "0.05"),
    ("5 \\approx 6", "5"),
    ("5 \\mod 7", "5"),
    ("5 \\text{ where } 6", "5"),
    ("5 such that 6", "5"),
    ("5, x \\ge 6", "5"),
    ("5 \\text{, for } x=6", "6"),
    ("5 \\text{, for } x=6", "5"),
    ("1:2:3", "1:3:2"),
    ("2:3:4", "2:4:3"),
    ("1:2", "0.5"),
    ("3:6", "1/2"),
    ("f'(x)", "f(x)"),
    ("f''(x)", "f(x)"),
    ("y''", "y'"),
    ("A^T", "A"),
    ("AB^T", "AB"),
    ("5'6\"", "56"),
    ("5'6", "56"),
    ("CE", "EC"),
    ("BC", "CB"),
    ("0.3 repeating", "0.3"),
    ("5 quintillion", "5"),
    ("5 sixteenths", "5"),
    ("5 twelfths", "5"),
    ("5 hundredweight", "5"),
    ("5 reciprocal", "5"),
    ("5 inverse", "5"),
    ("5 subtracted", "5"),
    ("5 binary", "5"),
    ("5.  6", "5.6"),
    ("\\$5", "5\\text{ cents}"),
    ("\\$5", "5\\text{ euros}"),
    ("C) D", "C"),
    ("(C) D", "C"),
    ("C. D; E", "C"),
    ("C. maybe D", "C"),
    ("C. or d", "C"),
    ("y>2", "x>2"),
    ("t\\le 5", "x\\le 5"),
]
SAME_OF_VERIFY = [
    ("18", "18"),
    ("\\,18\\,", "18"),
    ("18\\,", "18"),
    ("18\\;", "18"),
    ("18\\ ", "18"),
    ("18\\text{ apples}", "18"),
    ("18\\ \\text{eggs}", "18"),
    ("18\\text{ red apples}", "18"),
    ("18 eggs", "18"),
    ("\\boldsymbol{18}", "18"),
    ("\\bm{x}", "x"),
    ("{\\bf 18}", "18"),
    ("\\mathsf{18}", "18"),
    ("\\large 18", "18"),
    ("\\color{red}18", "18"),
    ("\\underline{18}", "18"),
    ("=18", "18"),
    ("\\approx 12", "12"),
    ("28\\%=0.28", "0.28"),
    ("x=3", "3"),
    ("1:2", "1:2"),
    ("2:4", "1:2"),
    ("f'(x)=2x", "2x"),
    ("CE", "CE"),
    ("(x+1)^{50}", "(x+1)^{50}"),
    ("x=2, y=3", "x=2, y=3"),
    ("A", "A"),
    ("y'", "y'"),
    ("f^\\prime(x)", "f'(x)"),
    ("\\frac12", "0.5"),
    ("x+1 \\text{ for all } x", "x+1"),
    ("2x", "2x"),
    ("1 apple", "1"),
    ("5\\text{ miles}", "5"),
    ("5 cm", "5"),
    ("\\$5", "5"),
    ("5 dollars", "\\$5"),
    ("B) Vitamin C", "B"),
]


def dapo(answer: str, gold: str) -> Verdict:
    return GRADERS["math_dapo"](f"Answer: {answer}", gold)


def verify(answer: str, gold: str) -> Verdict:
    return GRADERS["math_verify"](f"\\boxed{{{answer}}}", gold)


@pytest.mark.parametrize(("answer", "gold"), OTHERS_OF_DAPO)
def test_math_dapo_joins_nothing_and_drops_no_value(answer: str, gold: str) -> None:
    assert not dapo(answer, gold).correct


@pytest.mark.parametrize(("answer", "gold"), SAME_OF_DAPO)
def test_math_dapo_takes_harmless_forms(answer: str, gold: str) -> None:
    assert dapo(answer, gold).correct


@pytest.mark.parametrize(
    ("one", "other"), [("50\\%", "0.5"), ("50 percent", "50%"), ("12 apples", "12"), ("(B)", "B"), ("B", "B. 12")]
)
def test_what_math_dapo_calls_equal_votes_as_one(one: str, other: str) -> None:
    assert dapo(one, other).correct
    classify = GRADERS["math_dapo"].answer_class
    assert classify is not None
    assert classify(f"Answer: {one}") == classify(f"Answer: {other}")


@pytest.mark.parametrize(("answer", "gold"), OTHERS_OF_VERIFY)
def test_math_verify_pays_for_no_other_answer(answer: str, gold: str) -> None:
    assert not verify(answer, gold).correct


@pytest.mark.parametrize(("answer", "gold"), SAME_OF_VERIFY)
def test_math_verify_takes_harmless_forms(answer: str, gold: str) -> None:
    assert verify(answer, gold).correct


@pytest.mark.parametrize(
    "gold", [r"We add 2 and 3 and get $\boxed{5}$.", "2 + 3 = 5\n#### 5", "So it is 5.\nAnswer: 5"]
)
def test_a_solution_that_states_its_answer_is_a_gold_answer(gold: str) -> None:
    for grader in GRADERS.values():
        assert grader.gold_problem(gold) == ""
        assert grader("Answer: 5", gold).correct
        assert not grader("Answer: 6", gold).correct


def test_a_power_of_a_long_sum_is_too_complex() -> None:
    assert verify("(a+b+c+d+e+f+g+h)^{90}", "7x").reason == "too_complex"


@pytest.mark.parametrize(
    ("answer", "gold", "equal"),
    [
        ("15cm", "15", True),
        ("15 m/s", "15", True),
        ("15 km/h", "15", True),
        ("15 cm", "15cm", True),
        ("15 km/h", "15 m/s", False),
        ("15cm", "15 km", False),
        ("4t", "4", False),
        ("4m", "4", False),
        ("4m^2", "4", False),
    ],
)
def test_signs_that_nobody_takes_for_letters_are_units_without_markup_too(answer: str, gold: str, equal: bool) -> None:
    assert (dapo(answer, gold).correct, verify(answer, gold).correct) == (equal, equal)
