"""The grading rules that compare texts, on golds and answers, honest and hostile."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.spec.tree.graders import BUILT_IN, ExactGrader, MathDapoGrader, RegexGrader
from services.verifier.graders import MAX_EXTRACTED, GraderSetupError, Verdict, build_grader, text_for_grader, wrong
from services.verifier.graders.math_dapo import normalise
from tests.support.paths import SHARED
from tests.support.verifier.texts import SAID

DATA = SHARED / "data"
MATH_DAPO = MathDapoGrader()
LITERAL = MathDapoGrader(literal=True)
grade_exact = build_grader(ExactGrader())


def grade_math_dapo(text: str, gold: str) -> Verdict:
    """As the pool does: the grader reads what its options let it read."""
    read = text_for_grader(MATH_DAPO, text)
    assert isinstance(read, str)
    return build_grader(MATH_DAPO)(read, gold)


@pytest.mark.parametrize(
    ("gold", "answer"),
    [
        ("-3", "-3"),
        ("-3", "$-3$"),
        ("-3", "x = -3"),
        ("1,000", "1000"),
        ("1000", "1,000"),
        ("1000", "1{,}000"),
        ("-1000", "-1,000"),
        ("073", "73"),
        ("73", "073"),
        ("0", "-0"),
        ("34", "+34"),
        ("34", "\\boxed{34}"),
        ("34", "$\\boxed{34}$."),
        ("34", "The value is $n = 34$"),
        ("60", "60^\\circ"),
        ("5", "5 units"),
        ("\\frac{1}{2}", "\\frac12"),
        ("\\sqrt{3}", "\\sqrt3"),
        ("12", "\\$12"),
        ("east", "\\text{east}"),
    ],
)
def test_pitfall_19_equal_answers_are_equal(gold: str, answer: str) -> None:
    verdict = grade_math_dapo(f"Some steps.\nAnswer: {answer}", gold)
    assert (verdict.correct, verdict.score, verdict.reason) == (True, 1.0, "equal")


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("-3", "3"), ("3", "-3"), ("1000", "1,00"), ("12", "1,2"), ("73", "730"), ("34", "34 or 35"), ("10", "١٠")],
)
def test_pitfall_19_different_answers_are_different(gold: str, answer: str) -> None:
    verdict = grade_math_dapo(f"Answer: {answer}", gold)
    assert (verdict.correct, verdict.score, verdict.reason) == (False, 0.0, "different")


def grade_literally(text: str, gold: str) -> Verdict:
    read = text_for_grader(LITERAL, text)
    assert isinstance(read, str)
    return build_grader(LITERAL)(read, gold)


def test_pitfall_20_only_the_last_300_characters_count() -> None:
    answer = "Answer: 34"
    assert grade_literally(answer + " " * (300 - len(answer)), "34").correct
    assert grade_literally(answer + "\n" + "." * (299 - len(answer)), "34").correct
    assert grade_literally(answer + "\n" + "." * (300 - len(answer)), "34").reason == "no_answer"
    assert grade_math_dapo(answer + "\n" + "." * 3000, "34").correct
    assert text_for_grader(MathDapoGrader(literal=True, max_characters=5), "x" * 9) == "x" * 5


@pytest.mark.parametrize("answer", ["**34**", "34.", "34.0", "３４", "\\(34\\)", "\u221234"])
def test_the_papers_exact_rule_knows_no_typography(answer: str) -> None:
    gold = "-34" if answer.startswith("\u2212") else "34"
    assert grade_math_dapo(f"Answer: {answer}", gold).correct
    assert grade_literally(f"Answer: {answer}", gold).reason == "different"
    assert grade_literally(f"Answer: {gold}", gold).correct


def test_a_sign_before_a_formula_counts_but_in_the_papers_rule() -> None:
    assert not grade_math_dapo("Answer: -$34$", "34").correct
    assert grade_math_dapo("Answer: -$34$", "-34").correct
    assert grade_literally("Answer: -$34$", "34").correct


def test_what_follows_an_answer_line_may_state_another() -> None:
    text = "Answer: 34\n\nNo, wait: it is \\boxed{35}."
    assert grade_math_dapo(text, "35").correct
    assert not grade_math_dapo(text, "34").correct
    assert grade_literally(text, "34").correct
    assert grade_math_dapo("It is \\boxed{35}.", "35").reason == "no_answer"


def test_the_last_answer_line_wins() -> None:
    text = "Answer: 1\nNo.\nanswer : 2"
    assert grade_math_dapo(text, "2").correct
    assert not grade_math_dapo(text, "1").correct


@pytest.mark.parametrize("text", ["", "   ", "34", "Answer:", "Answer:  \n ", "Answer: units", "Answer: $$", "\x00"])
@pytest.mark.parametrize("gold", ["34", "units", ""])
def test_an_empty_answer_is_never_correct(text: str, gold: str) -> None:
    assert not grade_math_dapo(text, gold).correct


def test_exact_compares_the_whole_response_without_outer_white_space() -> None:
    assert grade_exact(" edcba\n", "edcba").correct
    assert grade_exact("edcb a", "edcba").reason == "different"
    assert grade_exact("Edcba", "edcba").reason == "different"
    assert grade_exact(" \n", " ").reason == "bad_gold"
    assert grade_exact("\t", "x").reason == "no_answer"


@given(st.text(max_size=400), st.text(max_size=40), st.sampled_from(["exact", "math_dapo"]))
def test_any_text_gets_a_short_verdict(text: str, gold: str, name: str) -> None:
    verdict = build_grader(BUILT_IN[name])(text, gold)
    assert len(verdict.extracted) <= MAX_EXTRACTED
    assert verdict.score == float(verdict.correct)
    assert verdict.correct == (verdict.reason == "equal")
    assert verdict == build_grader(BUILT_IN[name])(text, gold)


@given(st.integers(), SAID, st.sampled_from(["Answer: %d", "Answer: $%d$", "answer : \\boxed{%d}"]))
def test_shuffled_text_before_a_right_answer_leaves_it_right(number: int, noise: str, form: str) -> None:
    assert grade_math_dapo(f"{noise}\n{form % number}", str(number)).correct
    assert not grade_math_dapo(f"{noise}\n{form % number}", str(number + 1)).correct


def test_an_integer_of_any_length_gets_its_verdict() -> None:
    assert grade_math_dapo(f"Answer: {'3' * 9000}", "34").reason == "different"


@given(st.integers())
def test_an_integer_has_one_normal_form(number: int) -> None:
    assert normalise(str(number)) == normalise(f"{number:,}") == normalise(f"$ {number} $") == str(number)


def test_a_grader_of_the_whole_response_reads_none_that_is_too_long() -> None:
    assert text_for_grader(ExactGrader(max_characters=3), "abc") == "abc"
    assert text_for_grader(ExactGrader(max_characters=3), "abcd") == wrong("too_long")
    assert text_for_grader(MathDapoGrader(max_characters=3), "abcd") == "bcd"


@pytest.mark.parametrize(
    ("pattern", "text", "gold", "reason"),
    [
        ("#### (.*)", "#### 3\n#### 4", "4", "equal"),
        ("#### (.*)", "#### 3\n#### 4", "3", "different"),
        ("#### (.*)", "#### \n", "3", "no_answer"),
        ("(?i)yes|no", "Yes. No!", "No", "equal"),
        ("(a)?b", "b", "a", "no_answer"),
        ("x*", "abc", "x", "no_answer"),
        ("(.*)", "", "", "bad_gold"),
    ],
)
def test_regex_takes_the_last_match(pattern: str, text: str, gold: str, reason: str) -> None:
    verdict = build_grader(RegexGrader(pattern=pattern))(text, gold)
    assert (verdict.correct, verdict.reason) == (reason == "equal", reason)


def test_regex_as_a_rule_for_the_form() -> None:
    grade = build_grader(RegexGrader(pattern=r"^<think>.+</think>", compare=False))
    assert grade("<think>a</think> 3", "").correct
    assert grade("3", "").reason == "no_answer"
    assert build_grader(RegexGrader(pattern="x*", compare=False))("abc", "").reason == "no_answer"


def test_a_pattern_that_is_none_is_named() -> None:
    with pytest.raises(GraderSetupError, match=r"'\(' is no regular expression: .* Mend it"):
        build_grader(RegexGrader(pattern="("))


def test_every_gold_of_dapo_math_17k_grades_right_and_its_neighbour_wrong() -> None:
    path = DATA / "dapo_math_17k.parquet"
    if not path.exists():
        pytest.skip("DAPO-Math-17k is not here")
    parquet = pytest.importorskip("pyarrow.parquet")
    golds = [row["ground_truth"] for row in parquet.read_table(path)["reward_model"].to_pylist()]
    assert len(golds) > 17_000
    wrong = [gold for gold in golds if not grade_math_dapo(f"So it is.\nAnswer: {gold}", gold).correct]
    accepted = [gold for gold in golds if grade_math_dapo(f"Answer: {int(gold) + 1}", gold).correct]
    assert (wrong, accepted) == ([], [])


def test_human_solutions_of_gsm8k_grade_right() -> None:
    path = DATA / "gsm8k_test_300.jsonl"
    if not path.exists():
        pytest.skip("GSM8K is not here")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows
    for row in rows:
        steps, _, answer = row["solution"].rpartition("####")
        assert grade_math_dapo(f"{steps}Answer:{answer}", row["answer"]).correct, row
