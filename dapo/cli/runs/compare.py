"""`dapo runs compare`: several runs side by side."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.text import Text

from dapo.cli.display.words import duration
from dapo.cli.errors import fail
from dapo.cli.runs.where import RunPlace
from dapo.records.evaluations import points, read_evaluations
from dapo.records.folder import RunFolder
from dapo.records.identity import read_identity
from dapo.records.json_lines import read_json_object
from dapo.records.measured.comparison import (
    AVERAGED_STEPS,
    METRICS,
    Comparison,
    EvaluationPoint,
    RunColumn,
    RunFacts,
    Standing,
)
from dapo.records.measured.pictures import COMPARED, draw_metrics
from dapo.records.measured.series import MOST_POINTS, Series, read_series
from dapo.spec.load import load_spec, show_tree
from dapo.spec.wording import scalar_text
from dapo.terminal import Column, WideTable, visible

if TYPE_CHECKING:
    from dapo.client import RunClient

_WANTED = tuple(dict.fromkeys((*METRICS, *COMPARED)))
_FIELD_WIDTH = 36
_VERDICTS = {"higher": "green", "lower": "red", "within noise": "dim", None: "dim"}


def read(place: RunPlace) -> RunFacts:
    """From the run's service or, where that is gone, from its folder."""
    return place.ask_or(_ask, _read_folder)


def _ask(client: "RunClient", run_id: str) -> RunFacts:
    run = client.get(run_id)
    return RunFacts(
        id=run["id"],
        state=run["state"],
        steps_total=run["steps_total"],
        series=Series.model_validate(client.metrics(run_id, _WANTED, points=MOST_POINTS)),
        evaluations=client.evaluations(run_id),
        spec=yaml.safe_load(client.spec(run_id)),
    )


def _read_folder(folder: Path) -> RunFacts:
    files = RunFolder(folder)
    spec = load_spec(files.spec)
    summary = read_json_object(files.summary) if files.summary.exists() else {}
    state, steps_total = summary.get("state", "not ended"), summary.get("steps_total", spec.training.steps)
    if not (isinstance(state, str) and isinstance(steps_total, int)):
        raise ValueError(f"{files.summary}: state is no text, or steps_total no integer")
    return RunFacts(
        id=read_identity(folder).run_id,
        state=state,
        steps_total=steps_total,
        series=read_series(folder, 0, _WANTED, MOST_POINTS),
        evaluations=read_evaluations(folder),
        spec=show_tree(spec),
    )


def draw(runs: Sequence[RunFacts], out: Path) -> Path:
    """The curves over each other. Raises OSError."""
    measured = [name for name in COMPARED if any(name in run.series.columns for run in runs)]
    if not measured:
        fail("there is nothing to draw: no step has been finished")
    curves = {run.id: run.series for run in runs}
    return draw_metrics(curves, measured, out, evaluations={run.id: points(run.evaluations) for run in runs})


def print_comparison(found: Comparison, console: Console) -> None:
    if found.common_step:
        heading = f"at step {found.common_step}, which all have finished; means of the last {AVERAGED_STEPS} steps"
        _print_standings(found, lambda run: run.common, heading, console)
    if not found.common_step or any(run.last and run.last.step > found.common_step for run in found.runs):
        _print_standings(found, lambda run: run.last, "at the newest step of each", console)
    last = {row.set: row.points for row in found.evaluations if row.when == "last"}
    for row in found.evaluations:
        if row.when != "last" and row.points == last[row.set]:
            continue
        console.print(Text(visible(f"\n{row.set}, {row.when}"), "bold"))
        columns = [Column("run", text=True, whole=True), Column("step"), Column("value"), Column("95 % interval")]
        columns.append(Column("against the first", text=True, least=12))
        console.print(WideTable(columns, [_evaluation(point) for point in row.points], keys=1))
    if any(point.verdict == "within noise" for row in found.evaluations for point in row.points):
        console.print(Text("within noise: the 95 % intervals overlap", "dim"))
    _print_differences(found, console)


def _print_standings(
    found: Comparison, which: Callable[[RunColumn], Standing | None], heading: str, console: Console
) -> None:
    console.print(Text(heading, "bold"))
    columns = [Column("run", text=True, whole=True), Column("state", text=True), Column("step"), Column("accuracy")]
    columns += [Column("reward"), Column("tokens/s"), Column("time")]
    rows = [[Text(visible(run.id)), Text(visible(run.state)), *_standing(run, which(run))] for run in found.runs]
    console.print(WideTable(columns, rows, keys=1))


def _standing(run: RunColumn, at: Standing | None) -> list[Text]:
    if at is None:
        return [Text(f"0/{run.steps_total}"), *(Text("–") for _ in range(4))]
    return [
        Text(f"{at.step}/{run.steps_total}"),
        Text(_number(at.accuracy, "{:.3f}")),
        Text(_number(at.reward, "{:+.3f}")),
        Text(_number(at.tokens_per_s, "{:,.0f}")),
        Text("–" if at.time_s is None else duration(at.time_s)),
    ]


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _evaluation(point: EvaluationPoint) -> list[Text]:
    return [
        Text(visible(point.run)),
        Text(str(point.step)),
        Text(f"{point.value:.3f}"),
        Text(f"[{point.low:.3f}, {point.high:.3f}]"),
        Text(point.verdict or "the first", _VERDICTS[point.verdict]),
    ]


def _print_differences(found: Comparison, console: Console) -> None:
    if not found.differences:
        console.print(Text("\ntheir specs are the same", "bold"))
        return
    console.print(Text("\nwhat differs in the specs", "bold"))
    widest = min(_FIELD_WIDTH, max(len(one.field) for one in found.differences))
    columns = [
        Column("field", text=True, least=widest),
        *(Column(visible(run.id), text=True, least=10) for run in found.runs),
    ]
    rows = [[Text(visible(one.field)), *(Text(_value(value)) for value in one.values)] for one in found.differences]
    console.print(WideTable(columns, rows, keys=1))


def _value(value: Any) -> str:
    scalar = value is None or isinstance(value, str | int | float)
    return visible(scalar_text(value)) if scalar else json.dumps(value)
