"""`arithmetic` and `json_schema`: nothing is evaluated, nothing is fetched."""

import itertools
import json
import re
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.spec.tree.graders import (
    AnyGrader,
    ArithmeticGrader,
    JsonSchemaGrader,
    MathVerifyGrader,
    ReasoningGymGrader,
    WeightedGrader,
)
from services.verifier.graders import GraderSetupError, build_grader, right, wrong
from services.verifier.grading.dispatch import weighted_verdict

arithmetic = build_grader(ArithmeticGrader())
COUNTDOWN = json.dumps({"numbers": [3, 4, 1], "target": 13})


@pytest.mark.parametrize(
    "text",
    [
        "<answer>3*4+1</answer>", "<answer> 1 + (4 * 3) </answer>", "<answer>3*4+1 = 13</answer>",
        "<answer>1*3*4+1</answer><answer>4*3+1</answer>",
        "\\boxed{3 \\times 4 + 1}", "$\\boxed{1+3\\cdot4}$", "\\boxed{\\left(3 × 4\\right) + 1}", "Answer: 1 + 3 × 4.",
    ],
)  # fmt: skip
def test_an_expression_that_reaches_the_target_is_right(text: str) -> None:
    verdict = arithmetic(text, COUNTDOWN)
    assert (verdict.correct, verdict.reason) == (True, "equal")


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        ("", "no_answer"),
        ("13", "wrong_numbers"),
        ("3*4", "wrong_numbers"),
        ("3*4+1+1-1", "wrong_numbers"),
        ("3*4+1*1", "wrong_numbers"),
        ("4-(-3)*1", "different"),
        ("4-(-5)*1", "wrong_numbers"),
        ("34*1", "wrong_numbers"),
        ("3+4+1", "different"),
        ("4/(3-3)+1", "division_by_zero"),
        ("3*4+1=14", "bad_expression"),
        ("3*4+1=13=13", "bad_expression"),
        ("3+4+1=13", "different"),
        ("3*4+1 or 3+4+1", "bad_expression"),
        ("3**4", "bad_expression"),
        ("9**9**9**9", "bad_expression"),
        ("13//1", "bad_expression"),
        ("3*4+1;", "bad_expression"),
        ("3,4,1", "bad_expression"),
        ("(3*4)(1)", "bad_expression"),
        ("0x3*4+1", "bad_expression"),
        ("3_0*4+1", "bad_expression"),
        ("3e0*4+1", "bad_expression"),
        ("03*4+1", "bad_expression"),
        ("३*4+1", "bad_expression"),
        ("３*4+1", "bad_expression"),
        ("3*4+1\x00", "bad_expression"),
        ("__import__('os').getpid()", "bad_expression"),
        ("(lambda: 13)()", "bad_expression"),
        ("3*4+1 if 1 else 0", "bad_expression"),
        ("-" * 200 + "3", "bad_expression"),
        ("(" * 3000 + "1", "bad_expression"),
        ("1+" * 2000 + "1", "bad_expression"),
    ],
)
def test_anything_else_is_wrong(written: str, reason: str) -> None:
    verdict = arithmetic(f"<answer>{written}</answer>", COUNTDOWN)
    assert (verdict.correct, verdict.reason) == (False, reason)


def test_numbers_at_most_once_each() -> None:
    grade = build_grader(ArithmeticGrader(use_all=False))
    assert grade("<answer>3+4</answer>", '{"numbers": [3, 4, 1], "target": 7}').correct
    assert grade("<answer>3+3+1</answer>", '{"numbers": [3, 4, 1], "target": 7}').reason == "wrong_numbers"


def test_a_minus_before_a_number_is_allowed() -> None:
    assert arithmetic("<answer>-3+4</answer>", '{"numbers": [3, 4], "target": 1}').correct
    assert arithmetic("<answer>-3+4</answer>", '{"numbers": [-3, 4], "target": 1}').correct
    assert not arithmetic("<answer>3+4</answer>", '{"numbers": [-3, 4], "target": 7}').correct


@pytest.mark.parametrize(
    "gold",
    ["", "13", "[]", "{}", '{"numbers": [], "target": 0}', '{"numbers": [3], "target": "3"}', "[" * 5000,
     '{"numbers": [true], "target": 1}', '{"numbers": [3], "target": NaN}', '{"numbers": 3, "target": 3}'],
)  # fmt: skip
def test_an_unreadable_gold_is_a_failure(gold: str) -> None:
    verdict = arithmetic("<answer>3</answer>", gold)
    assert (verdict.correct, verdict.failed, verdict.reason) == (False, True, "bad_gold")


expressions = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/"), inner).map(lambda parts: f"({' '.join(parts)})"),
    max_leaves=6,
)


def exact(expression: str) -> Fraction:
    """The value by another way: Python's own, with every number a Fraction."""
    return eval(re.sub("[0-9]+", r"Fraction(\g<0>)", expression))


@given(expressions)
def test_values_are_exact(expression: str) -> None:
    numbers = [int(number) for number in expression.replace("(", " ").replace(")", " ").split() if number.isdigit()]
    try:
        value = exact(expression)
    except ZeroDivisionError:
        assert (
            arithmetic(f"<answer>{expression}</answer>", '{"numbers": [1], "target": 1}').reason == "division_by_zero"
        )
        return
    if value.denominator == 1:
        gold = json.dumps({"numbers": numbers, "target": int(value)})
        assert arithmetic(f"<answer>{expression}</answer>", gold).correct
        gold = json.dumps({"numbers": numbers, "target": int(value) + 1})
        assert not arithmetic(f"<answer>{expression}</answer>", gold).correct


def test_numbers_may_come_in_any_order() -> None:
    for order in itertools.permutations([3, 4, 1]):
        assert arithmetic("<answer>3*4+1</answer>", json.dumps({"numbers": order, "target": 13})).correct


@pytest.mark.parametrize(
    ("options", "library", "extra"),
    [(JsonSchemaGrader(), "jsonschema", "graders"), (MathVerifyGrader(), "math_verify", "graders"),
     (ReasoningGymGrader(), "reasoning_gym", "reasoning-gym")],
)  # fmt: skip
def test_a_missing_library_is_named_when_the_grader_is_built(
    options: AnyGrader, library: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(GraderSetupError, match=rf"missing \(.*{library}.*pip install '\.\[{extra}\]'"):
        build_grader(options)


def test_a_weighted_mean_reaches_a_threshold_that_floating_point_misses() -> None:
    options = WeightedGrader(parts={"a": 0.1, "b": 0.7, "c": 0.2}, threshold=0.8)
    verdicts = {"a": right("equal"), "b": right("equal"), "c": wrong("different")}
    assert weighted_verdict(options, verdicts).correct
    assert not weighted_verdict(options, verdicts | {"a": wrong("different")}).correct


pytest.importorskip("jsonschema", reason="pip install '.[graders]'")
conforms = build_grader(JsonSchemaGrader())
SCHEMA = json.dumps(
    {
        "type": "object",
        "required": ["a"],
        "properties": {"a": {"type": "integer", "multipleOf": 0.5}, "next": {"$ref": "#"}},
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1}', "valid"),
        ('{"a": 1, "next": {"a": 2}}', "valid"),
        ('Here:\n```json\n{"a": 1}\n```\nDone.', "valid"),
        ('```\n{"a": "x"}\n```\nNo:\n```json\n{"a": 2}\n```', "valid"),
        ('```json\n{"a": 1}\n```\nNo:\n```json\n{"a": "x"}\n```', "invalid"),
        ('{"a": "1"}', "invalid"),
        ('{"a": 1, "b": 1}', "invalid"),
        ('{"a": 1, "next": {}}', "invalid"),
        ("null", "invalid"),
        ("", "no_answer"),
        ("```json\n\n```", "no_answer"),
        ("a: 1", "not_json"),
        ('{"a": 1} {"a": 2}', "not_json"),
        ('{"a": 1, "a": 2}', "not_json"),
        ('{"a": NaN}', "not_json"),
        ('{"a": Infinity}', "not_json"),
        ('{"a": ' + "1" * 5000 + "}", "not_json"),
        ('{"a": 1e999}', "invalid"),
        ('{"a":' * 50_000, "not_json"),
        ('{"a": 1, "next":' * 300 + '{"a": 1}' + "}" * 300, "too_complex"),
    ],
)
def test_json_against_a_schema(text: str, reason: str) -> None:
    verdict = conforms(text, SCHEMA)
    assert (verdict.correct, verdict.reason) == (reason == "valid", reason)


@pytest.mark.parametrize(
    "schema",
    ["", "{", "[]", "true", '{"type": "nope"}', '{"pattern": "("}', '{"$ref": "http://127.0.0.1:9/x.json"}',
     '{"$ref": "file:///etc/hostname"}', '{"$ref": "#/$defs/x"}', "[" * 100_000],
)  # fmt: skip
def test_a_gold_that_is_no_schema_is_a_failure(schema: str) -> None:
    verdict = conforms('"x"', schema)
    assert (verdict.correct, verdict.failed, verdict.reason) == (False, True, "bad_gold")


def test_one_schema_for_all_rows(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(SCHEMA)
    grade = build_grader(JsonSchemaGrader(schema_path=str(path)))
    assert grade('{"a": 1}', "").correct
    assert not grade("{}", "").correct
    path.write_text("{")
    with pytest.raises(GraderSetupError, match=r"schema\.json is no JSON schema"):
        build_grader(JsonSchemaGrader(schema_path=str(path)))
    with pytest.raises(GraderSetupError, match=r"absent.json cannot be read: No such file"):
        build_grader(JsonSchemaGrader(schema_path=str(tmp_path / "absent.json")))
