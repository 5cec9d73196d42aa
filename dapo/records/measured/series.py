"""Curves out of metrics.jsonl: columns instead of rows, from a step on, thinned to what a picture can show."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from dapo.records.folder import RunFolder
from dapo.records.json_lines import line_number, lines_backwards, parse_line
from dapo.telemetry.metrics import BY_NAME

MOST_POINTS = 20_000
T = TypeVar("T")
_Line = tuple[int, bytes]
"""Where it begins, and it."""


class Series(BaseModel):
    """Metrics by step."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    step: list[int]
    """Ascending."""
    columns: dict[str, list[float | None]]
    """By metric, a value for each of `step`; null where it was not measured."""
    units: dict[str, str]
    """By metric."""
    last_step: int
    """The newest finished step; 0: none."""


def newest_rows(run_dir: Path, count: int) -> list[dict[str, Any]]:
    """The last rows of metrics.jsonl, oldest first. Raises ValueError naming a line that is no row, OSError."""
    path = RunFolder(run_dir).metrics
    return [_row(path, *line) for line in _lines_after(path, 0, count)]


def read_series(
    run_dir: Path, since_step: int, names: Sequence[str], points: int | None, *, until_step: int | None = None
) -> Series:
    """Of the steps after `since_step` and, where that is given, up to `until_step`. Without `names` all metrics that
    any of them has; of more than `points` steps every n-th, the newest among them. Raises ValueError naming a line that
    is no row, OSError."""
    path = RunFolder(run_dir).metrics
    lines = _lines_after(path, since_step, None, until_step)
    # What is thinned out need not be parsed, which takes most of the time.
    rows = [_row(path, *line) for line in (lines if points is None else thin(lines, points))]
    newest = rows if until_step is None else newest_rows(run_dir, 1)
    try:
        return make_series(rows, names, int(newest[-1]["step"]) if newest else since_step)
    except ValidationError as error:
        _, name, at = error.errors()[0]["loc"]
        raise ValueError(f"{path}: {name} of step {rows[int(at)]['step']} is no number") from error


def thin(lines: Sequence[T], points: int) -> Sequence[T]:
    """At most so many, evenly spread, the last among them."""
    stride = max(1, -(-len(lines) // points))
    return lines[::-1][::stride][::-1]


def make_series(rows: Sequence[Mapping[str, Any]], names: Sequence[str], last_step: int) -> Series:
    """Columns of the rows, which are in order."""
    measured = {name for row in rows for name in row if name in BY_NAME and name != "step"}
    wanted = [name for name in BY_NAME if name in measured and (not names or name in names)]
    return Series(
        step=[row["step"] for row in rows],
        columns={name: [row.get(name) for row in rows] for name in wanted},
        units={name: BY_NAME[name].unit for name in wanted},
        last_step=last_step,
    )


def join_series(parts: Sequence[Series]) -> Series:
    """Of parts that follow each other, one at least."""
    rows = [
        {"step": step} | {name: column[at] for name, column in part.columns.items()}
        for part in parts
        for at, step in enumerate(part.step)
    ]
    return make_series(rows, [], parts[-1].last_step)


def _lines_after(path: Path, since_step: int, count: int | None, until_step: int | None = None) -> list[_Line]:
    """Oldest first, one a step."""
    if not path.exists():
        return []
    found: list[_Line] = []
    for line in lines_backwards(path):
        if len(found) == count:
            break
        if since_step or until_step is not None:
            step = _row(path, *line)["step"]
            if step <= since_step:
                break
            if until_step is not None and step > until_step:
                continue
        found.append(line)
    return found[::-1]


def _row(path: Path, at: int, line: bytes) -> dict[str, Any]:
    row = parse_line(path, at, line)
    if not isinstance(row.get("step"), int):
        raise ValueError(f"{path}:{line_number(path, at)} has no step")
    return row
