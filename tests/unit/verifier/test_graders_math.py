"""`math_verify`: what is read of a response, what is equal, and that no way of hedging pays."""

import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dapo.spec.tree.graders import MathVerifyGrader
from services.verifier.graders import Verdict, build_grader
from services.verifier.graders.reading.extraction import final_answer, tagged_answer
from tests.support.paths import SHARED
from tests.support.verifier.texts import SAID

pytest.importorskip("math_verify", reason="pip install '.[graders]'")

DATA = SHARED / "data"
grade: Callable[[str, str], Verdict] = build_grader(MathVerifyGrader())


def boxed(answer: str, gold: str) -> Verdict:
    return grade(f"So it is $\\boxed{{{answer}}}$.", gold)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("\\boxed{1} no, \\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{\\boxed{3}}", "3"),
        ("\\fbox{3}", "3"),
        ("\\boxed{3} and then \\boxed{4", "3"),
        ("\\boxed{a\\}b}", "a\\}b"),
        ("{{{ \\boxed{3}", "3"),
        ("\\boxed{1} or \\boxed{2}", "1, 2"),
        ("$\\boxed{1}$, $\\boxed{2}$ and $\\boxed{3}$", "1, 2, 3"),
        ("\\boxed{1}\\boxed{2}", "1, 2"),
        ("\\boxed{1} \\text{ or } \\boxed{2}", "1, 2"),
        ("\\boxed{3}, \\boxed{3}", "3"),
        ("\\boxed{1} is the first root. The second: \\boxed{2}", "2"),
        ("Answer: 3\nAnswer: $4$", "4"),
        ("\\boxed{3}\nAnswer: 4", "4"),
        ("**Answer:** 34", "34"),
        ("**Final Answer**: 34", "34"),
        ("ANSWER:\n34", "34"),
        ("Answer: $$\nx = 3\n$$", "x = 3"),
        ("Steps.\nA: 260", "260"),
        ("#### 18", "18"),
        ("The answer is 12. Note that 13 is too many.", "12"),
        ("Final Answer: The final answer is $12{,}000$. I hope it is correct.", "12{,}000"),
        ("the answer is 3.5", "3.5"),
        ("Answer: the value is $n=34$.", "n=34"),
        ("Answer: $3$ or $4$", "$3$ or $4$"),
        ("Answer: 3 or $4$", "3 or $4$"),
        ("34", ""),
        ("", ""),
        ("\\boxed{", ""),
        ("\\boxed{}", ""),
        ("BANSWERS 3", ""),
    ],
)
def test_one_answer_is_read(text: str, answer: str) -> None:
    assert final_answer(text) == answer


def test_the_last_tagged_answer() -> None:
    assert tagged_answer("<answer>1</answer> <ANSWER> 2 </answer>") == "2"
    assert tagged_answer("<answer>1</answer><answer>2") == "1"
    assert tagged_answer("<answer><answer>1</answer>") == "1"
    assert tagged_answer("no tags") == ""
    assert tagged_answer("\u0130\u0130 <answer>1</answer>") == "1"  # Its lower case is longer.


EQUAL = [
    ("34", "34"), ("34", "34.0"), ("34", "+34"), ("34", "034"), ("34", "$34$"), ("34", "x = 34"), ("-3", "−3"),
    ("1000", "1,000"), ("10{,}000", "10\\,000"), ("50,625", "50625"), ("13.18", "\\$13.18"), ("12", "12 dollars"),
    ("125", "125\\text{ miles}"), ("12", "12 \\text{ cm}^3"), ("60", "60^\\circ"), ("60", "60°"),
    ("\\frac{1}{2}", "0.5"), ("\\frac{1}{2}", "\\frac12"), ("\\frac{1}{2}", "2/4"), ("\\frac{1}{3}", "0.333333"),
    ("1\\frac{1}{4}", "\\frac{5}{4}"), ("-\\frac{40}{153}", "\\frac{-40}{153}"), ("28\\%", "28"), ("28\\%", "0.28"),
    ("7\\pi", "7π"), ("\\sqrt{2}", "\\frac{2}{\\sqrt{2}}"), ("\\sqrt{2}", "1.414214"), ("4a-2", "2(2a-1)"),
    ("x^2+2x+1", "(x+1)^2"), ("1,2", "2, 1"), ("\\{1,2\\}", "1 \\text{ and } 2"), ("(1,2)", "(1, 2)"),
    ("[0,1)", "[0, 1)"), ("x>5", "5 < x"), ("k=1", "1"), ("3+2i", "2i+3"), ("2^{2021}", "2^{2020}\\cdot 2"),
    ("100!", "99! \\cdot 100"), ("10_3", "10_3"), ("1022_3", "1022"), ("A", "\\text{(A)}"), ("east", "\\text{East}"),
    ("12:00", "12:00"), ("\\begin{pmatrix}1\\\\2\\end{pmatrix}", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("x=3,y=2", "3,2"), ("x=2,y=3", "y=3, x=2"), ("x=2,y=3", "(2,3)"), ("5", "x=2+3=5"), ("1000", "10^3=1000"),
    ("0.28", "0.28=28\\%"), ("(1,2),(3,4)", "\\{(1,2),(3,4)\\}"), ("no", "No"),
    ("4t", "4 t"), ("10^{-20}", "10^{-20}"), ("The area is \\boxed{3}.", "3"), ("9 + 9 = 18\n#### 18", "18"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), EQUAL)
def test_equal_answers_are_equal(gold: str, answer: str) -> None:
    assert boxed(answer, gold).reason == "equal"


DIFFERENT = [
    ("34", "35"), ("34", "-34"), ("34", "3 4"), ("34", "34k"), ("34", "0.34"), ("1000", "10,00"), ("12", "1,2"),
    ("\\frac{1}{3}", "0.33"), ("4t", "4"), ("4", "4t"), ("10", "10_2"), ("10_3", "10_4"), ("5", "5 thousand"),
    ("5", "5 \\text{ thousand}"), ("5", "5 \\text{ percent of } 3"), ("east", "seat"), ("east", "west"), ("A", "B"),
    ("(1,2)", "(2,1)"), ("[0,1)", "[0,1]"), ("x>5", "x<5"), ("x+1", "x+2"), (".5x", "5x"), ("0.0000001", "0"),
    ("0", "0.0000001"), ("0.0000014", "0.0000006"), ("x=2,y=3", "3,2"), ("x=2,y=3", "\\{3,2\\}"), ("no", "on"),
    ("5", "4=5"), ("5", "x=4=5"), ("5", "1+1=3=5"), ("\\{1,2\\}", "(1,2)"), ("(1,2)", "\\{1,2\\}"),
    ("10^{-20}", "10^{-30}"), ("\\frac{1}{10000000}", "0.0"), ("3", "\\infty"), ("3", "x"), ("3", "three"),
    ("3", "nan"), ("3", "\\text{no answer}"), ("3", "\\emptyset"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different_answers_are_different(gold: str, answer: str) -> None:
    verdict = boxed(answer, gold)
    assert (verdict.correct, verdict.failed) == (False, False)


AMID_WORDS = [
    "Answer: -$7$", "The final answer is -$7$.", "Answer: minus $7$", "Answer: not $7$", "Answer: anything but $7$",
    "Answer: $7$ thousand", "Answer: $7$ million", "Answer: $7$ percent", "Answer: $7$ dozen", "Answer: half of $7$",
    "Answer: -\\(7\\)", "Answer: .$7$", "Answer: $7$!", "Answer: $7$k", "The answer is half of $7$.",
    "\\boxed{8 \\boxed{7}}", "\\boxed{\\text{minus }7}", "\\boxed{7 percent}",
]  # fmt: skip


@pytest.mark.parametrize("text", AMID_WORDS)
def test_words_and_signs_around_a_formula_are_part_of_the_answer(text: str) -> None:
    assert not grade(text, "7").correct


@pytest.mark.parametrize(
    "text",
    ["Answer: it is $7$ miles.", "Answer: x = $7$", "**Answer:** **$7$**", "Answer: $7$ cm", "The answer is \\(7\\).",
     "Answer: $7$ miles per hour", "So $7$ is it. Answer: $7$ is the answer", "\\boxed{\\boxed{7}}"],
)  # fmt: skip
def test_a_formula_amid_words_that_change_nothing_is_the_answer(text: str) -> None:
    assert grade(text, "7").correct


def test_a_minus_before_a_formula_is_read() -> None:
    assert grade("Answer: -$7$", "-7").correct
    assert grade("Answer: -\\(7\\)", "-7").correct
    assert not grade("Answer: √$49$", "49").correct


NO_UNITS = [
    "\\text{ millions}", "\\text{ thousands}", "\\text{ hundreds}", "\\text{ dozens}", "\\text{ trillions}",
    "\\text{ bn}", "\\text{ M}", "\\text{ G}", "\\text{ fifths}", "\\text{ tenths}", "\\text{ pi}", "\\mathrm{e}",
    "\\text{ negative}", "\\text{ point five}", "\\text{ factorial}", "\\text{ less than}", "\\text{ six}",
    "\\text{ rejected it is thirteen}", " M", " bn",
]  # fmt: skip


@pytest.mark.parametrize("words", NO_UNITS)
def test_words_that_are_no_unit_make_another_answer(words: str) -> None:
    assert not boxed(f"5{words}", "5").correct


@pytest.mark.parametrize(
    ("gold", "answer"),
    [("5", "5\\text{ miles per hour}"), ("5", "5 \\text{ square units}"), ("5\\text{ widgets}", "5.0\\text{ widgets}"),
     ("5\\text{ widgets}", "5"), ("5\\text{ thousand}", "5\\text{ thousand}")],
)  # fmt: skip
def test_units_and_the_gold_answers_own_are_left_out(gold: str, answer: str) -> None:
    assert boxed(answer, gold).correct


LINEAR = [
    "\n" * 10_000, "Answer: 1<" + " " * 9_900 + "2", "Answer: " + "$ " * 5_000 + "x", "Answer: " + "\\(" * 5_000,
    "\\" * 10_000, "Answer: 1_" + " " * 9_900 + "x", "Answer: x" + "$ " * 5_000 + "y", "<answer>" * 1_250,
    "Answer: (" + "5, not " * 1_400, "<answer>" + " " * 9_900 + "x answer: 5</answer>",
    "The answer is so" + " " * 9_900,
    "Answer: 5 (" + "five " * 1_900,
]  # fmt: skip


@pytest.mark.parametrize("text", LINEAR)
def test_long_texts_take_time_in_proportion(text: str) -> None:
    def seconds(long: str) -> float:
        times = []
        for _ in range(3):
            began_s = time.perf_counter()
            grade(long, "7")
            tagged_answer(long)
            times.append(time.perf_counter() - began_s)
        return min(times)

    once = seconds(text)
    assert once < 0.5
    assert seconds(text[:8] + text[8:] * 4) < 10 * once + 0.1


HEDGES = [
    "\\boxed{3} or \\boxed{4}", "\\boxed{4} or \\boxed{3}", "\\boxed{3}, \\boxed{4}", "\\boxed{4}\\boxed{3}",
    "\\boxed{3, 4}", "\\boxed{3 or 4}", "\\boxed{4 \\text{ or } 3}", "\\boxed{\\{3, 4\\}}", "\\boxed{(3, 4)}",
    "\\boxed{x=3, x=4}", "\\boxed{x=4 \\text{ or } x=3}", "\\boxed{\\pm 3}", "\\boxed{[3, 4]}", "\\boxed{\\ge 3}",
    "\\boxed{\\text{3 or 4}}", "\\boxed{3/4}", "\\boxed{3 | 4}", "\\boxed{3 ; 4}", "\\boxed{3 \\quad 4}",
    "\\boxed{34}", "Answer: 3 or 4", "Answer: $4$ or $3$", "Answer: 3, 4", "Answer: 4 $3$", "The answer is 3 or 4.",
    f"\\boxed{{{', '.join(map(str, range(10)))}}}", " or ".join(f"\\boxed{{{n}}}" for n in range(4)),
    "\\boxed{\\text{one of } 1, 2, 3}", "\\boxed{\\begin{cases} 3 \\\\ 4 \\end{cases}}", "\\boxed{3 \\neq 4}",
]  # fmt: skip


@pytest.mark.parametrize("text", HEDGES)
def test_naming_several_answers_is_no_way_to_hedge(text: str) -> None:
    assert not grade(text, "3").correct


BETWEEN = [
    ",", ";", " or ", " and ", "\\text{ or }", "\\text{and}", "/", "|", "\\lor ", "\\vee ", "\\cup ", "=",
    "\\approx ", "\\sim ", "\\equiv ", ":", "\\to ", "\\pm ", "\\mp ", "\\\\", "&", "~", "\\quad ", "\\Rightarrow ",
    "\\in ", "<", "\\le ", "\\neq ", "+-", "..", "\\ldots ", "-", "\n", " ", "\\,", "\\;", "\\text{, }", "\\}, \\{",
    "\\text{ maybe }", "\\iff ", "\\mid ", "?", "!", "'", "_", "^", "*", "\\times ", "\\cap ",
]  # fmt: skip


@pytest.mark.parametrize(
    "form", ["%s%s%s", "x=%s%sx=%s", "\\{%s%s%s\\}", "(%s%s%s)", "[%s%s%s]", "x=%s%s%s", "\\text{%s%s%s}"]
)
@pytest.mark.parametrize("between", BETWEEN)
def test_no_answer_is_right_for_two_golds(form: str, between: str) -> None:
    for first, second in (("3", "4"), ("\\frac{1}{2}", "\\sqrt{2}"), ("\\text{east}", "\\text{west}")):
        answer = form % (first, between, second)
        assert not (boxed(answer, first).correct and boxed(answer, second).correct)


@pytest.mark.parametrize("text", ["\\boxed{4}. Or rather, with the other sign, \\boxed{5}", "Answer: 4\nAnswer: 5"])
def test_of_answers_apart_only_the_last_counts(text: str) -> None:
    assert grade(text, "5").correct
    assert not grade(text, "4").correct


@pytest.mark.parametrize(
    "text", ["", " ", "3", "\\boxed{}", "\\boxed{ }", "\\boxed{$$}", "\\boxed{\\text{}}", "Answer:", "Answer: ."]
)
@pytest.mark.parametrize("gold", ["3", "", " ", "\\text{}", "$$", "\\boxed{}"])
def test_an_empty_answer_is_never_correct(text: str, gold: str) -> None:
    assert not grade(text, gold).correct


@pytest.mark.parametrize(
    ("answer", "character"),
    [("٣", "U+0663"), ("3\u200b", "U+200B"), ("\u202e3", "U+202E"), ("3\x00", "U+0000"),
     ("\ud800", "U+D800"), ("③", "U+2462"), ("Ⅲ", "U+2162")],
)  # fmt: skip
def test_characters_that_nobody_can_tell_are_refused(answer: str, character: str) -> None:
    verdict = boxed(answer, "3")
    assert (verdict.reason, verdict.extracted) == ("unreadable", character)


@pytest.mark.parametrize("gold", ["", "  "])
def test_no_gold_is_told_from_a_wrong_answer(gold: str) -> None:
    assert boxed("3", gold).reason == "bad_gold"


@pytest.mark.parametrize("gold", ["4:30p..", "\\frac{1}{0}", "\\frac{", "٩", "9^{9^{9^9}}", "\\int_0^1 e^{-x^2} dx"])
def test_a_gold_that_cannot_be_read_is_a_failure_and_no_reward(gold: str) -> None:
    for answer in ("3", "\\frac{1}{0}+1", "x"):
        verdict = boxed(answer, gold)
        assert (verdict.correct, verdict.failed, verdict.reason) == (False, True, "bad_gold")


def test_numbers_are_compared_to_so_many_decimals() -> None:
    assert build_grader(MathVerifyGrader(digits=2))("\\boxed{3.14}", "3.1416").correct
    assert not build_grader(MathVerifyGrader(digits=3))("\\boxed{3.14}", "3.1416").correct
    assert not build_grader(MathVerifyGrader(digits=0))("\\boxed{0}", "0.4").correct


@settings(deadline=None)
@given(st.integers(), SAID, st.sampled_from(["$\\boxed{%d}$.", "\\boxed{ %d }", "\n\\boxed{{%d}}\n"]))
def test_shuffled_text_around_a_right_answer_stays_right(number: int, noise: str, form: str) -> None:
    noise = noise.replace("boxed", "").replace("fbox", "")
    assert grade(f"{noise}\n\n{form % number}", str(number)).correct
    assert not grade(f"{noise}\n\n{form % number}", str(number + 1)).correct


@settings(deadline=None)
@given(st.permutations(["The sum is 5.", "Then $x = 2$.", "\\boxed{7} would be wrong.", "Answer: 9", "We are done."]))
def test_the_order_of_the_steps_does_not_matter(steps: list[str]) -> None:
    assert grade("\n".join([*steps, "So it is \\boxed{\\frac{3}{4}}."]), "0.75").correct


@settings(deadline=None)
@given(st.text(max_size=200), st.text(max_size=40))
def test_grading_any_text_is_deterministic(text: str, gold: str) -> None:
    verdict = boxed(text, gold)
    assert verdict == boxed(text, gold)
    assert verdict.correct == (verdict.reason == "equal")


def rows(name: str) -> list[dict[str, str]]:
    path = DATA / f"{name}.jsonl"
    if not path.exists():
        pytest.skip(f"{name} is not here")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "disagreements"),
    # docs/graders.md explains each: in 72-7 the label is wrong, 70,000 / 7 is 10,000.
    [("math_model_outputs", ["72-7"]), ("gsm8k_model_outputs", [])],
)
def test_agreement_with_labelled_responses(name: str, disagreements: list[str]) -> None:
    labelled = rows(name)
    found = [row["id"] for row in labelled if grade(row["response"][-10_000:], row["gold"]).correct != row["correct"]]
    assert found == disagreements
    assert len(found) <= 0.01 * len(labelled)


def test_every_gold_of_math500_grades_itself_right() -> None:
    golds = {row["answer"] for row in rows("math500")}
    assert [gold for gold in golds if not boxed(gold, gold).correct] == []


def test_every_gold_of_dapo_math_17k_grades_right_and_its_neighbour_wrong() -> None:
    path = DATA / "dapo_math_17k.parquet"
    if not path.exists():
        pytest.skip("DAPO-Math-17k is not here")
    parquet = pytest.importorskip("pyarrow.parquet")
    golds = {row["ground_truth"] for row in parquet.read_table(path)["reward_model"].to_pylist()}
    assert [gold for gold in golds if not boxed(gold, gold).correct] == []
    assert [gold for gold in golds if boxed(str(int(gold) + 1), gold).correct] == []
