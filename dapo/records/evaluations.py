"""evaluations.jsonl: one line for each evaluation of one set, as the evaluator writes it."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from dapo.records.folder import RunFolder
from dapo.records.json_lines import read_json_lines


class Point(NamedTuple):
    """avg@k of one version, with its interval."""

    step: int
    value: float
    low: float
    high: float


class _Interval(BaseModel):
    value: float
    low: float
    high: float


class _Line(BaseModel):
    """What is read of a line; of an evaluation in which every problem failed nothing was measured."""

    step: int
    set: str
    samples: int | None = None
    avg_at_k: _Interval | None = None
    pass_at_k: dict[str, _Interval] | None = None
    maj_at_k: dict[str, _Interval] | None = None
    truncated_share: float | None = None


def read_evaluations(run_dir: Path) -> list[dict[str, Any]]:
    """Oldest first; none where there was no evaluation. Raises ValueError naming a line that is no evaluation."""
    path = RunFolder(run_dir).evaluations
    rows = read_json_lines(path) if path.exists() else []
    for number, row in enumerate(rows, start=1):
        try:
            line = _Line.model_validate(row)
        except ValidationError as error:
            wrong = error.errors()[0]
            field = ".".join(map(str, wrong["loc"]))
            raise ValueError(f"{path}:{number} is no evaluation: {field}: {wrong['msg']}") from error
        if line.avg_at_k is not None and line.samples is None:
            raise ValueError(f"{path}:{number} is no evaluation: samples: Field required")
    return rows


def points(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Point]]:
    """By set, called `<set> avg@<k>`; evaluations in which every problem failed are left out."""
    found: dict[str, list[Point]] = {}
    for row in rows:
        if (average := row.get("avg_at_k")) is not None:
            name = f"{row['set']} avg@{row['samples']}"
            found.setdefault(name, []).append(Point(row["step"], average["value"], average["low"], average["high"]))
    return found


def best_step(rows: Sequence[Mapping[str, Any]], name: str, steps: Collection[int]) -> int | None:
    """Of `steps`, that with the highest avg@k on the set `name`, the latest of equal ones; None where none was
    evaluated."""
    found = [
        (average["value"], row["step"])
        for row in rows
        if row["set"] == name and row["step"] in steps and (average := row.get("avg_at_k")) is not None
    ]
    return max(found)[1] if found else None
