"""`dapo runs watch`: the display of `dapo train`, of any run of a service."""

import os
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import typer
from rich.console import Console

from dapo.cli.display.displays import Display, JsonDisplay, make_display
from dapo.cli.display.follow import ENDED, GIVE_UP_S, Snapshots, follow
from dapo.cli.display.panel import panel
from dapo.cli.display.picture import RunPicture
from dapo.cli.display.words import COLUMNS
from dapo.cli.errors import CANCELLED, INTERRUPTED, LOST, RUN_ERROR, STOPPED, fail
from dapo.cli.output import note, print_json
from dapo.cli.runs.where import RunPlace
from dapo.client import ClientTls, Pipeline, RefusedRequest, Run, RunClient, Series, ServiceError
from dapo.redaction import redact_url
from dapo.terminal import visible

_CODES = {"succeeded": 0, "failed": RUN_ERROR, "stopped": STOPPED, "cancelled": CANCELLED}
_POINTS = 500
"""Of a curve that is shown once."""


def watch(place: RunPlace, *, once: bool, as_json: bool) -> None:
    """Show a run until it has ended, or `once`; leaves with the exit code of how it ended."""
    with place.client() as client:
        run = client.get(place.run_id)
        if once:
            _show(client, run, as_json=as_json)
            return
        console = Console()
        display = JsonDisplay() if as_json else make_display(console, run["id"], run["steps_total"])
        end = _follow(place, client, run, display, live=console.is_terminal and not as_json)
    if not as_json:
        typer.echo(visible(_ending(end)))
    raise typer.Exit(_CODES[end["state"]])


def _follow(place: RunPlace, client: RunClient, run: Run, display: Display, *, live: bool) -> Run:
    run_id = run["id"]
    connect = partial(RunClient, place.url, place.token, ClientTls.of(os.environ))
    try:
        with display, Snapshots(connect, run_id, display, pipeline=live):
            display.snapshot(run, {})
            end = follow(client, run_id, display, gone_s=0.0 if run["state"] in ENDED else GIVE_UP_S)
            display.snapshot(end, {})
            return end
    except ServiceError as error:
        if isinstance(error, RefusedRequest) and not error.for_now:
            raise
        fail(f"{error} (at {redact_url(place.url)}). What became of run {run_id} is not known", LOST)
    except KeyboardInterrupt:
        note(f"no longer watched; run {run_id} goes on (dapo runs stop {run_id} ends it)")
        raise typer.Exit(INTERRUPTED) from None


def _ending(run: Run) -> str:
    why = f": {run['message']}" if run["message"] else ""
    return f"run {run['id']} {run['state']} at step {run['step']} of {run['steps_total']}{why}"


def _show(client: RunClient, run: Run, *, as_json: bool) -> None:
    """As it stands now."""
    pipeline = client.pipeline(run["id"])
    names = [name for _, name, _ in COLUMNS]
    series = client.metrics(run["id"], [*names, "time_s"], points=_POINTS)
    if as_json:
        print_json({"run": run, "pipeline": pipeline, "step": _newest(series)})
        return
    console = Console(highlight=False)
    console.print(panel(_picture(run, pipeline, series), console.width, 0.0))


def _picture(run: Run, pipeline: Pipeline, series: Series) -> RunPicture:
    picture = RunPicture(run["id"], run["steps_total"])
    for row in _rows(series):
        picture.add_row(row, row.get("time_s"))
    picture.snapshot(run, pipeline)
    return picture


def _rows(series: Series) -> Iterator[dict[str, Any]]:
    for at, step in enumerate(series["step"]):
        yield {"step": step, **{name: values[at] for name, values in series["columns"].items()}}


def _newest(series: Series) -> Mapping[str, Any] | None:
    return list(_rows(series))[-1] if series["step"] else None
