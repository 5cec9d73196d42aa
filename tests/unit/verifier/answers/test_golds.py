"""Gold answers that nobody can meet honestly are refused; lists of alternatives accept each of them."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dapo.spec.tree.graders import BUILT_IN, JsonSchemaGrader, MathDapoGrader, RegexGrader
from services.verifier.graders import Grader, build_grader
from services.verifier.graders.golds import alternatives

pytest.importorskip("math_verify", reason="pip install '.[graders]'")

MATHEMATICAL = ("math_verify", "math_dapo")
graders: dict[str, Grader] = {name: build_grader(BUILT_IN[name]) for name in (*MATHEMATICAL, "exact", "arithmetic")}
graders["literal"] = build_grader(MathDapoGrader(literal=True))
graders["regex"] = build_grader(RegexGrader(pattern="#### (.*)"))
FORMS = {
    "math_verify": "\\boxed{%s}",
    "math_dapo": "Answer: %s",
    "literal": "Answer: %s",
    "exact": "%s",
    "regex": "#### %s",
}

PLACEHOLDERS = ["proof", "Proof", "notfound", "not found", "NotFound", "n/a", "N/A", "", "  ", "not_found"]
IN_MATHEMATICS = [
    *PLACEHOLDERS, "\\text{proof}", "$\\text{Proof.}$", "\\boxed{proof}", "**proof**", "null", "NaN", "?",
    "unknown", "-", "...", "see solution", "(proof)", '"n/a"', "Q.E.D.", "no answer", '["proof"]', '["", "n/a"]',
    "\\text{n/a}",
]  # fmt: skip
PROSE = [
    "9. Anya needs to climb the height of one floor; while Vanya needs five",
    "Yes. The number is always divisible by three.",
    "\\text{We use induction on the number of vertices of the graph}",
    "The statement is proved by contradiction as follows: suppose $n$ is even",
]


@pytest.mark.parametrize("name", MATHEMATICAL)
@pytest.mark.parametrize("gold", IN_MATHEMATICS + PROSE)
def test_what_is_no_mathematical_answer_is_never_rewarded(name: str, gold: str) -> None:
    for answer in (gold, gold.lower(), "9", "proof"):
        verdict = graders[name](FORMS[name] % answer, gold)
        assert (verdict.correct, verdict.reason, verdict.failed) == (False, "bad_gold", True)
    assert graders[name].gold_problem(gold) == verdict.extracted != ""


@pytest.mark.parametrize("name", ["exact", "regex"])
@pytest.mark.parametrize("gold", PLACEHOLDERS)
def test_a_placeholder_is_no_text_to_be_met(name: str, gold: str) -> None:
    assert graders[name](FORMS[name] % gold, gold).reason == "bad_gold"


HONEST = [
    "34", "-3.5", "\\frac{1}{2}", "x^2+1", "(0,1]", "\\{1,2\\}", "B", "(C) 12", "east", "\\text{no solution}", "No",
    "true", "18 red apples", "5 \\text{ miles per hour}", "\\text{Monday}", "x+1 \\text{ for all } x", "12:00", "1,2,3",
    "all real numbers", "\\text{neither even nor odd}", "\\emptyset", "Alice, Bob, Carol, Dave, Eve and Frank",
    "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "x=2, y=3", "[1, 2]", "[0,1)", "p", "<", "\\{\\}", "undefined",
    "None", "\\text{None}", "none of these", "The second player has a winning strategy", "C)", "B - Paris",
    "any positive integer not divisible by three",
]  # fmt: skip


@pytest.mark.parametrize("gold", HONEST)
def test_an_answer_is_met_by_itself(gold: str) -> None:
    assert graders["math_verify"].gold_problem(gold) == ""
    assert graders["math_verify"](f"\\boxed{{{gold}}}", gold).correct


@pytest.mark.parametrize(
    "gold", ["None", "The second player has a winning strategy", "any even integer above the square root"]
)
def test_words_are_met_in_the_text_form_as_well(gold: str) -> None:
    assert graders["math_dapo"](f"Answer: {gold}", gold).correct


@pytest.mark.parametrize("gold", ["C)", "(C)", "C.", "C) 12", "C: Paris", "\\text{(C)}", "C"])
@pytest.mark.parametrize("answer", ["12", "D", "\\mathrm{(D)}", "x+1", "\\frac{", "no", "(C, D)", "\\mathrm{(C)}"])
def test_the_verdict_on_an_option_as_gold_does_not_depend_on_the_response(gold: str, answer: str) -> None:
    verdict = graders["math_verify"](f"\\boxed{{{answer}}}", gold)
    assert not verdict.failed
    assert verdict.correct == (answer == "\\mathrm{(C)}")


@pytest.mark.parametrize(
    ("name", "gold"),
    [("math_verify", "\\frac{"), ("math_verify", "٣"), ("math_dapo", "units"), ("math_dapo", "3\nor so")],
)
def test_a_gold_that_does_not_grade_itself_as_right_is_refused(name: str, gold: str) -> None:
    assert "does not grade itself as right" in graders[name].gold_problem(gold)
    assert graders[name](FORMS[name] % gold, gold).reason == "bad_gold"


@pytest.mark.parametrize(
    ("name", "gold", "answers", "others"),
    [
        ("math_verify", '["3"]', ["3", "3.0"], ["4"]),
        ("math_verify", '["1","one"]', ["1", "one"], ["2", "1, one"]),
        ("math_verify", '["0.5", 2]', ["\\frac12", "2"], ["0.5, 2"]),
        ("math_verify", '["n/a", "7"]', ["7"], ["n/a"]),
        ("math_verify", "[1, 2]", ["[1,2]"], ["1", "2"]),
        ("math_dapo", '["3","three"]', ["3", "three"], ["4"]),
        ("literal", '["3","4"]', ["3", "4"], ["5"]),
        ("exact", '["a","b"]', ["a", "b"], ["c", '["a","b"]']),
        ("exact", "[1, 2]", ["[1, 2]"], ["1"]),
        ("exact", "[a", ["[a"], ["a"]),
        ("regex", '["a","b"]', ["a", "b"], ["ab"]),
    ],
)
def test_a_list_of_texts_means_alternatives(name: str, gold: str, answers: list[str], others: list[str]) -> None:
    for answer in answers:
        assert graders[name](FORMS[name] % answer, gold).correct, answer
    for other in others:
        assert not graders[name](FORMS[name] % other, gold).correct, other


def test_alternatives_have_a_bound() -> None:
    gold = json.dumps([str(number) for number in range(100)])
    assert graders["math_verify"](FORMS["math_verify"] % "3", gold).reason == "bad_gold"


@given(st.lists(st.text()))
def test_alternatives_are_the_texts_of_the_list(texts: list[str]) -> None:
    gold = json.dumps(texts)
    assert alternatives(gold) == (tuple(dict.fromkeys(texts)) or (gold,))


def test_a_form_needs_no_gold() -> None:
    form = build_grader(RegexGrader(pattern="a+", compare=False))
    assert form("aa", "n/a").correct
    assert form.gold_problem("") == ""


@pytest.mark.parametrize("gold", ["3", "{}", '{"numbers": [], "target": 3}', '["3"]'])
def test_golds_that_are_json_are_checked_by_their_form(gold: str) -> None:
    assert graders["arithmetic"].gold_problem(gold)
    assert graders["arithmetic"]("Answer: 3", gold).reason == "bad_gold"
    assert graders["arithmetic"].gold_problem('{"numbers": [3], "target": 3}') == ""


def test_a_schema_is_checked() -> None:
    schema = build_grader(JsonSchemaGrader())
    assert schema.gold_problem('{"type": "object"}') == ""
    assert "no JSON schema" in schema.gold_problem('{"type": 3}')


def test_tests_of_programs_are_checked() -> None:
    code = build_grader(BUILT_IN["code"])
    assert code.gold_problem('{"tests": [{"input": "", "output": "1"}]}') == ""
    for gold in ("proof", '{"tests": []}', '{"asserts": "x = 1"}'):
        assert code.gold_problem(gold)
        assert code("```python\nprint(1)\n```", gold).reason == "bad_gold"


@settings(deadline=None)
@given(st.text(max_size=60), st.sampled_from(MATHEMATICAL))
def test_only_golds_without_a_problem_are_ever_met(gold: str, name: str) -> None:
    grader = graders[name]
    if grader.gold_problem(gold):
        assert not grader(FORMS[name] % gold, gold).correct
    else:
        texts = [text for one in alternatives(gold) for text in (one, FORMS[name] % one, FORMS[name] % one.strip())]
        assert any(grader(text, gold).correct for text in texts)
