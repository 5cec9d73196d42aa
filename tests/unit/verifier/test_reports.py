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
TO_MEND = {
    # Programs: tolerance, long integers, which block is run, the usual imports, the cap on the output.
    "b01-0", "b01-1", "b01-2", "b01-3", "b01-4", "b02-0", "b04-0", "b04-1", "b05-0",
}  # fmt: skip
"""Reports whose verdict is still wrong."""


def rows() -> list[Any]:
    if not REPORTS.exists():
        return [pytest.param({}, id="absent", marks=pytest.mark.skip(reason="the reports are not here"))]
    found = [json.loads(line) for line in REPORTS.read_text().splitlines()]
    return [pytest.param(row, id=row["id"], marks=_marks(row["id"])) for row in found]


def _marks(row_id: str) -> tuple[pytest.MarkDecorator, ...]:
    return (pytest.mark.xfail(strict=True, reason="a rule to come"),) if row_id in TO_MEND else ()


@lru_cache
def grader(name: str) -> Callable[[str, str], Verdict]:
    return build_grader(BUILT_IN[name])


@pytest.mark.parametrize("row", rows())
def test_reported_answers_get_their_right_verdict(row: dict[str, Any]) -> None:
    read = text_for_grader(BUILT_IN[row["grader"]], row["response"])
    verdict = read if isinstance(read, Verdict) else grader(row["grader"])(read, row["gold"])
    assert verdict.correct == row["correct"], verdict
