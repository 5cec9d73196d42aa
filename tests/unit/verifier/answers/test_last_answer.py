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


def test_an_expression_is_read_by_the_same_rule() -> None:
    grade = build_grader(ArithmeticGrader())
    gold = '{"numbers": [3, 4], "target": 12}'
    assert grade("<answer>3 + 4</answer> No.\nAnswer: 3 * 4", gold).correct
    assert not grade("<answer>3 * 4</answer> No.\nAnswer: 3 + 4", gold).correct
