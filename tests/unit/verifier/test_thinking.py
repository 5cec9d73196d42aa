"""Thinking is not answering: what a grader is given of a response that thinks first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.contracts.prompts import begun_response
from dapo.spec.tree.graders import (
    BUILT_IN,
    AnyGrader,
    CodeGrader,
    ExactGrader,
    MathDapoGrader,
    RegexGrader,
    WeightedGrader,
)
from dapo.v1 import messages_pb2 as pb
from services.verifier.graders import right, text_for_grader, wrong
from services.verifier.grading.dispatch import weighted_verdict

UNCLOSED = wrong("no_answer")._replace(unclosed_thinking=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("no thought", "no thought"),
        (" no thought\n", " no thought\n"),
        ("<think>maybe 5</think>\n\n7", "7"),
        ("<think></think>7", "7"),
        ("<THINK>maybe 5</Think>7", "7"),
        ("<think>a</think>It is <think>b</think>7", "It is 7"),
        ("maybe 5</think>7", "7"),
        ("a<think>b</think>c</think>7", "7"),
        ("<think>the tag <think> opens</think>7", "7"),
        ("<think>5</think>", ""),
        ("Use the `<think>` tag: 7", "Use the `<think>` tag: 7"),
        ("print('<think>', \"</THINK>\")", "print('<think>', \"</THINK>\")"),
        ("<think>I end with `</think>`. 5</think>7", "7"),
        ("<think>5</think>Not `</think>` 7", "Not `</think>` 7"),
        ("the `<think>5</think>` tags hold 7", "the `` tags hold 7"),
    ],
)
@pytest.mark.parametrize("options", BUILT_IN.values(), ids=BUILT_IN)
def test_no_grader_reads_what_was_thought(options: AnyGrader, text: str, said: str) -> None:
    assert text_for_grader(options, text) == said


@pytest.mark.parametrize(
    "text", ["<think>7", "<think>", "7 <think>or", "<think>a</think>7<think>b", "a</think><think>7"]
)
@pytest.mark.parametrize("options", [*BUILT_IN.values(), RegexGrader(pattern="7")])
def test_who_never_stops_thinking_has_no_answer(options: AnyGrader, text: str) -> None:
    assert text_for_grader(options, text) == UNCLOSED


@pytest.mark.parametrize("begun", ["<think>", "assistant<THINK>", "<think></think><think>Let me see: maybe"])
@pytest.mark.parametrize("options", BUILT_IN.values(), ids=BUILT_IN)
def test_thinking_that_the_prompt_has_opened_is_not_read_either(options: AnyGrader, begun: str) -> None:
    assert text_for_grader(options, "maybe 5, maybe 7", begun) == UNCLOSED
    assert text_for_grader(options, "maybe 5</think> It is 7", begun) == "It is 7"
    assert text_for_grader(options, "<think>maybe 5</think>7", begun) == "7"


@pytest.mark.parametrize(
    "begun", ["", "assistant", "<think></think>", "<think>\n\n</think>\nThe", "What is `<think>`?"]
)
def test_a_prompt_that_opens_no_thinking_changes_nothing(begun: str) -> None:
    assert text_for_grader(ExactGrader(), "7", begun) == "7"


@pytest.mark.parametrize(
    ("prompt", "end", "begun"),
    [
        (pb.Prompt(text="User: 1+1?\nAssistant: <think>\n"), "<think>", "<think>"),
        (pb.Prompt(text="What is <think> in HTML?"), "HTML?", "HTML?"),
        (pb.Prompt(messages=[{"role": "user", "content": "<think>"}]), "assistant", "assistant"),
        (pb.Prompt(messages=[{"role": "user", "content": "1+1?"}]), "<think>", "<think>"),
        (
            pb.Prompt(messages=[{"role": "user", "content": "?"}, {"role": "assistant", "content": "<think>So"}]),
            "<think>So",
            "<think>So",
        ),
        (pb.Prompt(), "", ""),
    ],
)
def test_what_a_prompt_has_begun_is_its_started_turn_or_its_last_word(prompt: pb.Prompt, end: str, begun: str) -> None:
    assert begun_response(prompt, end) == begun


def test_thinking_is_cut_before_the_end_is_taken() -> None:
    options = MathDapoGrader(max_characters=10)
    assert text_for_grader(options, "<think>" + "x" * 100 + "Answer: 1") == UNCLOSED
    assert text_for_grader(options, "<think>" + "x" * 100 + "</think>Answer: 1") == "Answer: 1"
    assert text_for_grader(ExactGrader(max_characters=3), "<think>long</think>abc") == "abc"


def test_tags_are_an_option_of_every_grader() -> None:
    options = CodeGrader(thinking_tags=("[THINK]", "[/THINK]"))
    assert text_for_grader(options, "[THINK]a[/THINK]b") == "b"
    assert text_for_grader(options, "<think>a") == "<think>a"
    assert text_for_grader(RegexGrader(pattern="a", thinking_tags=None), "<think>a</think>") == "<think>a</think>"


def test_a_part_of_a_sum_that_reads_no_end_of_thinking_shows_in_the_whole() -> None:
    options = WeightedGrader(parts={"a": 1.0, "b": 1.0})
    assert weighted_verdict(options, {"a": UNCLOSED, "b": right("matched")}).unclosed_thinking
    assert not weighted_verdict(options, {"a": wrong("no_answer"), "b": right("matched")}).unclosed_thinking


@given(st.lists(st.sampled_from(["<think>", "5", " ", "\n", "<", "think>"]), max_size=30))
def test_nothing_of_a_thought_is_read(parts: list[str]) -> None:
    thought = "".join(parts)
    assert text_for_grader(ExactGrader(), f"<think>{thought}</think>7") == "7"
