"""Answers that graders of this kind judged wrongly, by public reports, each with its right verdict."""

import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pytest

from dapo.spec.tree.graders import BUILT_IN
from services.verifier.graders import Verdict, build_grader, text_for_grader
from tests.support.paths import SHARED

pytest.importorskip("math_verify", reason="pip install '.[graders]'")

REPORTS = SHARED / "reports" / "grading.jsonl"


def rows() -> list[Any]:
    if not REPORTS.exists():
        return [pytest.param({}, id="absent", marks=pytest.mark.skip(reason="the reports are not here"))]
    found = [json.loads(line) for line in REPORTS.read_text().splitlines()]
    return [pytest.param(row, id=row["id"]) for row in found]


@lru_cache
def grader(name: str) -> Callable[[str, str], Verdict]:
    return build_grader(BUILT_IN[name])


@pytest.mark.parametrize("row", rows())
def test_reported_answers_get_their_right_verdict(row: dict[str, Any]) -> None:
    read = text_for_grader(BUILT_IN[row["grader"]], row["response"])
    verdict = read if isinstance(read, Verdict) else grader(row["grader"])(read, row["gold"])
    assert verdict.correct == row["correct"], verdict
