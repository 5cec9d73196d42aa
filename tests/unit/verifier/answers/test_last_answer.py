"""The last stated answer counts, whichever form it has, and what only looks like one is none."""

import itertools

import pytest

from dapo.spec.tree.graders import ArithmeticGrader, MathVerifyGrader
from services.verifier.graders import build_grader
from services.verifier.graders.reading.extraction import final_answer

FORMS = [
    "So \\boxed{%s}.", "It is $\\boxed{%s}$", "So $\\boxed %s$.", "Answer: %s", "**Answer: %s**", "**Answer:** %s",
    "**Final Answer**: %s", "*Answer*: %s", "`Answer`: %s", "Final Answer: **%s**", "Answer：%s", "#### %s",
    "The answer is %s.", "The answer is **%s**.", "So the final answer is: $%s$.", "<answer>%s</answer>",
    "<answer>\\boxed{%s}</answer>", "Answer: $\\boxed{%s}$", "A: %s",
    "The final answer is \\(%s\\). I hope it is correct.",
    "Answer:\n\n$$\n%s\n$$", "The answer is:\n\\[\n%s\n\\]", "Therefore, the answer is therefore %s, as shown above.",
]  # fmt: skip


@pytest.mark.parametrize(("earlier", "later"), itertools.product(FORMS, repeat=2))
def test_the_later_of_two_forms_counts(earlier: str, later: str) -> None:
    math_verify = build_grader(MathVerifyGrader())
    text = f"{earlier % 5}\n\nNo: I forgot to double it.\n\n{later % 10}"
    assert math_verify(text, "10").correct
    assert not math_verify(text, "5").correct


@pytest.mark.parametrize(
    "after",
    [
        "So the answer is correct.", "The answer is an integer between 0 and 999, so this is fine.", "#### Check",
        "#### Step 2: verification with n = 5", "#### 2. Verification", "**Answer:**", "#### Case B",
        "The answer is boxed above.",
        "Let me check my answer: 2 + 3 is odd, as wanted.",
        "The answer is in the required form.", "The answer is unique.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", FORMS)
def test_what_is_said_about_an_answer_is_none(form: str, after: str) -> None:
    assert build_grader(MathVerifyGrader())(f"{form % 7}\n\n{after}", "7").correct


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("$\\boxed 42$", "42"),
        ("\\boxed 42.", "42"),
        ("\\boxed42 is it", "42"),
        ("$\\boxed -3.5$", "-3.5"),
        ("$\\boxed x+1$", "x+1"),
        ("$\\boxed \\frac{1}{2}$", "\\frac{1}{2}"),
        ("\\[\\boxed B\\]", "B"),
        ("$\\boxed 1$ or $\\boxed 2$", "1, 2"),
        ("\\boxed{\\text{Answer: } 5}", "\\text{Answer: } 5"),
        ("<answer>A: 5\nB: 6</answer>", "A: 5\nB: 6"),
        ("<answer>5", ""),
        ("Answer: 5 </answer>", "5"),
        ("Answer: 5\nAnswer:", "5"),
    ],
)
def test_what_a_form_holds(text: str, answer: str) -> None:
    assert final_answer(text) == answer


REMARKS = [
    "prime", "even", "optimal", "exact", "rounded", "greater than 3", "at least 2", "2 digits long", "a 3-digit number",
    "3 more than before", "divisible by 5", "yes", "Simple", "now rounded to 2 decimals", "$n$-independent",
    "100% certain",
]  # fmt: skip
FORMAL = [form for form in FORMS if "answer is" not in form.lower()]


@pytest.mark.parametrize("remark", REMARKS)
@pytest.mark.parametrize("form", FORMAL)
def test_a_sentence_after_an_answer_says_something_about_it(form: str, remark: str) -> None:
    grader = build_grader(MathVerifyGrader())
    assert grader(f"{form % 7}\n\nThe answer is {remark}.\n\nExplanation: the answer is {remark}.", "7").correct


@pytest.mark.parametrize("after", ["Answer: see above", "A: wrong", "Answer: as shown above.", "A: See above."])
@pytest.mark.parametrize("form", FORMS)
def test_a_line_that_points_elsewhere_is_no_answer(form: str, after: str) -> None:
    assert build_grader(MathVerifyGrader())(f"{form % 7}\n\n{after}", "7").correct


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("5", "10"), ("5", "10 apples"), ("5", "10 red apples"), ("5", "$\\frac{1}{2}$"), ("5", "x = 10"), ("5", "B"),
        ("A", "(B)"), ("A", "B) 12"), ("yes", "no"), ("\\text{True}", "false"), ("Monday", "Tuesday"),
        ("\\text{Monday}", "Tuesday"), ("east", "10"), ("5", "-10"), ("5", "about 10"), ("5", "10, not 5"),
        ("x+1", "$x+2$"), ("5", "\\$10"), ("5", "10 m"), ("even", "2"),
    ],
)  # fmt: skip
def test_a_sentence_after_an_answer_that_states_another_one_counts(earlier: str, later: str) -> None:
    stated = final_answer(f"The answer is {later}.")
    for form in FORMAL:
        if "boxed %s" not in form:
            assert final_answer(f"{form % earlier}\n\nNo: the answer is {later}.") == stated


@pytest.mark.parametrize(("earlier", "later"), [("B", "12"), ("5", "no"), ("east", "right"), ("Yes", "Monday")])
def test_a_sentence_of_another_kind_is_no_correction(earlier: str, later: str) -> None:
    assert final_answer(f"\\boxed{{{earlier}}}\n\nThe answer is {later}.") == earlier


EXPLAINED = [
    "%s (since 2+3=5)", "%s, because 2+3", "%s because 2+3 is so", "%s, not 17", "%s (not 17)", "%s, as required",
    "approximately %s", "about %s", "approx. %s", "%s - since 2+3", "exactly %s, which is odd", "**%s**, since 2+3",
    "$%s$ (because it is odd)", "so %s",
]  # fmt: skip


@pytest.mark.parametrize("said", EXPLAINED)
@pytest.mark.parametrize("answer", ["5", "3.5", "-2"])
def test_an_explanation_behind_an_answer_is_no_part_of_it(said: str, answer: str) -> None:
    grade = build_grader(MathVerifyGrader())
    stated = said % answer
    for form in ("Answer: %s", "#### %s", "The answer is %s.", "<answer>%s</answer>", "A: %s", "**Answer:** %s"):
        assert grade(form % stated, answer).correct, form % stated
    for form in ("<answer>The answer is %s</answer>", "<answer>Answer: %s</answer>", "<answer>**Answer:** %s</answer>"):
        assert grade(form % stated, answer).correct, form % stated


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Answer: B, because A is false", "B"),
        ("Answer: 12 (twelve)", "12"),
        ("The answer is 12 (twelve). So.", "12"),
        ("Answer: 250 (two hundred and fifty)", "250"),
        ("The answer is yes, it does.", "yes"),
        ("Answer: No. There is none.", "No"),
        ("Answer: True, False", "True, False"),
        ("Answer: 5 (thousand)", "5 (thousand)"),
        ("Answer: 5 (mod 7)", "5 (mod 7)"),
        ("Answer: 5 (or six)", "5 (or six)"),
        ("Answer: (5, not 6)", "(5, not 6)"),
        ("Answer: 5, so it is odd", "5"),
        ("Answer: 2x = 8, so x = 4", "2x = 8, so x = 4"),
        ("Answer: $5, so y = 6$", "5, so y = 6"),
        ("Answer: x+1 where x > 0", "x+1 where x > 0"),
        ("Answer: 3 or 4, since both fit", "3 or 4"),
        ("Answer: no solution", "no solution"),
        ("\\boxed{west}\n\nFinal Answer: the east", "the east"),
    ],
)
def test_what_is_cut_off_is_an_explanation_alone(text: str, answer: str) -> None:
    assert final_answer(text) == answer


OPTIONS = [
    "B (Paris)", "B - Paris", "B — Paris", "B \\text{ (Paris)}", "\\text{Option B}", "\\text{choice B}", "Option B",
    "\\text{Option B: }12", "\\mathrm{(B)}\\ 12", "\\mathbf{(B)} 12", "\\text{Option }\\textbf{(B)}",
    "B, because A is false",
]  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_is_read_with_its_text_in_any_form(option: str) -> None:
    grade = build_grader(MathVerifyGrader())
    for form in ("Answer: %s", "The answer is %s.", "\\boxed{%s}")[: 2 if "because" in option else 3]:
        for gold in ("B", "(B)", "B)"):
            assert grade(form % option, gold).correct, form % option
        assert not grade(form % option, "C").correct


@pytest.mark.parametrize(
    "answer", ["B(x)", "B (x+1)", "B - 2", "B - x", "B - sin x", "BC", "B (or C)", "B (maybe C)", "B - A"]
)
def test_a_formula_or_a_hedge_is_no_option(answer: str) -> None:
    assert not build_grader(MathVerifyGrader())(f"Answer: {answer}", "B").correct


def test_an_expression_is_read_by_the_same_rule() -> None:
    grade = build_grader(ArithmeticGrader())
    gold = '{"numbers": [3, 4], "target": 12}'
    assert grade("<answer>3 + 4</answer> No.\nAnswer: 3 * 4", gold).correct
    assert not grade("<answer>3 * 4</answer> No.\nAnswer: 3 + 4", gold).correct
