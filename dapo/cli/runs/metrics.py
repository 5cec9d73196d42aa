"""`dapo runs metrics`: what a run has measured, as a table, JSON, CSV or a picture."""

import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.text import Text

from dapo.cli.errors import fail
from dapo.cli.output import note
from dapo.cli.runs.where import RunPlace
from dapo.records.measured.series import MOST_POINTS, Series, join_series, read_series
from dapo.telemetry.metrics import BY_NAME
from dapo.terminal import Column, WideTable, sparkline

if TYPE_CHECKING:
    from dapo.client import RunClient

_CURVE = 24
"""Columns of a curve where there is room."""
_LEAST_CURVE = 8


def read(place: RunPlace, names: Sequence[str], since_step: int, *, whole: bool) -> Series:
    """From the run's service or, where that is gone, from its folder; of many steps as many as a picture shows, or the
    `whole`. Leaves with a message for a name that is none."""
    for name in names:
        if name not in BY_NAME or name == "step":
            close = ", ".join(one for one in BY_NAME if name and name in one) or "dapo runs metrics RUN shows all"
            fail(f"{name!r} is no metric: {close}")
    return place.ask_or(
        lambda client, run_id: (
            _ask_all(client, run_id, names, since_step)
            if whole
            else Series.model_validate(client.metrics(run_id, names, since_step=since_step, points=MOST_POINTS))
        ),
        lambda folder: read_series(folder, since_step, names, None if whole else MOST_POINTS),
    )


def _ask_all(client: "RunClient", run_id: str, names: Sequence[str], since_step: int) -> Series:
    """In parts of which the service leaves out no step."""
    parts: list[Series] = []
    while not parts or since_step < parts[-1].last_step:
        until_step = since_step + MOST_POINTS
        found = client.metrics(run_id, names, since_step=since_step, until_step=until_step, points=MOST_POINTS)
        parts.append(Series.model_validate(found))
        since_step = until_step
    return join_series(parts)


def print_table(series: Series, console: Console) -> None:
    """A metric a line: its newest value, how much that is more than the first, and the curve between."""
    if not series.step:
        console.print("no step has been finished yet" if not series.last_step else "no step has been finished since")
        return
    measured = [(name, column, _measured(column)) for name, column in series.columns.items()]
    cells = [
        (name, column, _number(found[-1]), _signed(found[-1] - found[0])) for name, column, found in measured if found
    ]
    first, last = series.step[0], series.step[-1]
    steps = f"step {last}" if first == last else f"steps {first} to {last}"
    if not cells:
        console.print(f"nothing was measured in {steps}")
        return
    names = max(len(name) for name, *_ in cells)
    columns = [Column("metric", text=True, least=names), Column("last"), Column("change")]
    numbers = sum(max(len(heading), *(len(cell[at]) for cell in cells)) for at, heading in ((2, "last"), (3, "change")))
    room = min(_CURVE, max(_LEAST_CURVE, console.width - names - numbers - 3))
    columns.append(Column(f"{first} … {last}", text=True, least=room))
    rows = [
        [Text(name), Text(now), Text(change, "dim"), Text(sparkline(column, room), "green")]
        for name, column, now, change in cells
    ]
    console.print(WideTable(columns, rows, keys=1))
    console.print(Text(f"{steps}; change: of the newest value against the first", "dim"), soft_wrap=False)


def _measured(column: Sequence[float | None]) -> list[float]:
    return [value for value in column if value is not None and math.isfinite(value)]


def _number(value: float) -> str:
    """With four significant digits, or all of an integer; in millions from there on."""
    if abs(value) >= 1e6:
        return f"{value / 1e6:,.4g} M"
    return f"{value:,.0f}" if value == round(value) or abs(value) >= 1000 else f"{value:.4g}"


def _signed(value: float) -> str:
    return _number(value) if value < 0 else f"+{_number(value)}"


def print_csv(series: Series, names: Sequence[str]) -> None:
    """A line a step, below one of `names`, or of all that the series has; empty where nothing was measured."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    shown = list(dict.fromkeys(names or series.columns))
    writer.writerow(["step", *shown])
    unmeasured = [None] * len(series.step)
    writer.writerows(zip(series.step, *(series.columns.get(name, unmeasured) for name in shown), strict=True))
    sys.stdout.flush()


def show(series: Series, names: Sequence[str], *, as_json: bool, as_csv: bool, picture: Path | None) -> None:
    """Leaves with a message where there is nothing to draw; says which of `names` were not measured."""
    missing = [name for name in dict.fromkeys(names) if not _measured(series.columns.get(name, ()))]
    if missing and series.step:
        note(f"not measured in these steps: {', '.join(missing)}")
    if as_json:
        typer.echo(json.dumps(series.model_dump()))
    elif as_csv:
        print_csv(series, names)
    elif picture is not None:
        from dapo.records.measured.pictures import COMPARED, draw_metrics

        drawn = [name for name in names or COMPARED if name in series.columns and name not in missing]
        if not drawn:
            fail("there is nothing to draw: none of it was measured")
        typer.echo(draw_metrics({"": series}, drawn, picture))
    elif not series.step or not names or len(missing) < len(set(names)):
        print_table(series, Console(highlight=False))
