"""Gold answers that no response can honestly meet, as `dapo data` finds them with the graders themselves."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dapo.cli.main import app
from dapo.data import open_source
from dapo.spec.tree.data import SourceSpec
from tests.support.data import write_lines


def dapo(*arguments: object):
    return CliRunner().invoke(app, ["data", *map(str, arguments)])


def read(path: Path) -> list[tuple[str, str]]:
    return [(row.prompt.text, row.gold) for row in open_source(SourceSpec(path=str(path)), "copy")]


@pytest.fixture
def golds(tmp_path) -> Path:
    answers = [
        "proof",
        3,
        "n/a",
        ["4", "four"],
        "9. Anya needs to climb the height of one floor; while Vanya needs five",
        "",
    ]
    lines = [{"question": f"question {number}", "answer": answer} for number, answer in enumerate(answers)]
    return write_lines(tmp_path / "golds.jsonl", [*lines, {"question": "question 0", "answer": 7}])


def test_gold_answers_that_cannot_be_met_are_counted_and_listed(golds) -> None:
    found = json.loads(dapo("inspect", golds, "--json").stdout)
    assert (found["usable"], found["bad_golds"]) == (6, 3)
    assert [line.partition(": ")[0] for line in found["first_bad_golds"]] == [
        f"golds.jsonl:{line}" for line in (1, 3, 5)
    ]
    shown = " ".join(dapo("inspect", golds).stdout.split())
    assert "3 × gold answer that no response can honestly meet golds.jsonl:1: 'proof': it is a placeholder" in shown


def test_gold_answers_that_cannot_be_met_are_left_out(golds, tmp_path) -> None:
    out = tmp_path / "out.jsonl"
    done = json.loads(dapo("prepare", golds, out, "--json").stdout)
    assert done["dropped"] == {"bad_gold": 3, "malformed": 1}
    # The bad gold answer of question 0 does not stand in the way of its good one.
    assert read(out) == [("question 1", "3"), ("question 3", '["4","four"]'), ("question 0", "7")]


def test_gold_answers_are_checked_by_the_grader_of_the_row_or_the_one_named(golds, tmp_path) -> None:
    assert json.loads(dapo("inspect", golds, "--json", "--grader", "exact").stdout)["bad_golds"] == 2
    lines = [
        {"question": "a", "answer": "proof", "by": "exact"},
        {"question": "b", "answer": "[1]", "by": "arithmetic"},
    ]
    named = write_lines(tmp_path / "named.jsonl", [*lines, {"question": "c", "answer": "x", "by": "nobody"}])
    found = json.loads(dapo("inspect", named, "--json", "--set", "grader_field=by").stdout)
    assert [line.split(": ")[2] for line in found["first_bad_golds"]] == [
        "it is a placeholder",
        'it is not {"numbers"',
        "no grader is called 'nobody'",
    ]


def test_a_spec_says_which_grader_checks(golds, tmp_path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("""
model: {path: .}
data: {path: .}
reward: {grader: judge, graders: {judge: {type: python, function: "operator:eq"}}}
""")
    assert json.loads(dapo("inspect", golds, "--json", "--spec", spec).stdout)["bad_golds"] == 0
    refused = dapo("inspect", golds, "--grader", "nope")
    assert (refused.exit_code, "no grader is called 'nope'" in refused.output) == (2, True)


def test_a_grader_that_cannot_be_set_up_ends_the_check(golds, tmp_path) -> None:
    result = dapo("prepare", golds, tmp_path / "out.jsonl", "--grader", "python:no_such_module:f")
    assert result.exit_code
    assert "cannot be checked" in result.output
    assert not (tmp_path / "out.jsonl").exists()
