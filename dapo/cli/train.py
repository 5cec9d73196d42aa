"""`dapo train`: a client of an embedded run service."""

import json
import signal
from collections.abc import Callable, Mapping
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import typer
from rich.console import Console

from dapo.cli.children import require_torch
from dapo.cli.display.displays import make_display
from dapo.cli.display.follow import ENDED, Snapshots, follow
from dapo.cli.display.words import duration
from dapo.cli.embedded import EmbeddedService
from dapo.cli.errors import INTERRUPTED, RUN_ERROR, USER_ERROR, fail
from dapo.client import RefusedRequest, Run, RunClient, ServiceError
from dapo.host.storage import in_words
from dapo.policy import Admission, Policy
from dapo.records.folder import RunFolder
from dapo.records.identity import RunDirError, read_identity
from dapo.records.json_lines import read_json_lines
from dapo.spec.checks.all import find_warnings
from dapo.spec.load import check_inputs, dump_yaml, load_spec, show_yaml, unfit_inputs
from dapo.spec.preview import format_preview, preview
from dapo.spec.problem import SpecError
from dapo.spec.run import RunSpec
from dapo.terminal import visible

_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def resolve(path: Path | None, overrides: list[str]) -> RunSpec:
    """The spec with its overrides; leaves with exit code 2 and one line a problem where it is refused."""
    assert path is not None
    try:
        return load_spec(path, overrides)
    except SpecError as error:
        fail(str(error))


def resolve_resumed(run_dir: Path, overrides: list[str]) -> RunSpec:
    """The spec of the run in a folder, with overrides; leaves with exit code 2 where there is none."""
    try:
        read_identity(run_dir)
    except (RunDirError, OSError) as error:
        fail(in_words(error))
    return resolve(RunFolder(run_dir).spec, overrides)


def require_inputs(spec: RunSpec) -> None:
    """Leave with exit code 2 where the model or the data is not on this machine, or does not fit the spec."""
    try:
        check_inputs(spec)
    except SpecError as error:
        fail(str(error))


def _refused_elsewhere(spec: RunSpec) -> str:
    """What a run service would refuse of it as long as nobody has allowed it; "" where that is nothing."""
    fields = [problem.field for problem in Admission(Policy(), Path()).refusals(spec)]
    if not fields:
        return ""
    return f"note: a run service (dapo serve) refuses {', '.join(fields)} as given here, unless its policy allows it"


def dry_run(spec: RunSpec) -> None:
    """Print the resolved spec and what would be started. Leave with exit code 2 where a model that is on this machine
    does not fit it; one that is not may be elsewhere."""
    if problems := unfit_inputs(spec):
        fail("\n".join(map(str, problems)))
    typer.echo(show_yaml(spec))
    typer.echo(format_preview(preview(spec)))


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


class Finished(NamedTuple):
    """A run that has succeeded."""

    folder: Path
    interrupted: bool
    """Somebody wanted it to stop, too late."""


class _Attempt:
    """What is known of a run, whenever an interrupt comes."""

    run: Run | None = None
    interrupted = False


def train(spec: RunSpec, run_dir: Path | None) -> Finished:
    """Run the spec to its end, showing progress; leaves with 1 where the run fails and 130 where it was stopped by an
    interrupt. One that had succeeded by then has succeeded. Interrupts are ignored from then on, until the next run."""
    run_dir = run_dir.resolve() if run_dir else None
    return _drive(spec, run_dir, lambda client: client.create(dump_yaml(spec), str(run_dir) if run_dir else ""))


def resume(spec: RunSpec, run_dir: Path, overrides: list[str]) -> Finished:
    """Go on with the run in a folder; as `train`. `spec` is its own with the overrides."""
    folder = run_dir.resolve()
    # Its service has this folder alone: a copy beside it holds a run of the same id.
    run_id = read_identity(folder).run_id
    return _drive(spec, folder, lambda client: client.resume(run_id, overrides), state_dir=folder)


def _drive(
    spec: RunSpec, run_dir: Path | None, start: Callable[[RunClient], Run], *, state_dir: Path | None = None
) -> Finished:
    require_inputs(spec)
    require_torch("training on this machine")
    for number in _INTERRUPTS:
        signal.signal(number, _interrupt)
    console = Console()
    for warning in find_warnings(spec):
        console.print(visible(f"warning: {warning}"), style="yellow", highlight=False, markup=False, soft_wrap=True)
    if note := _refused_elsewhere(spec):
        console.print(visible(note), style="dim", highlight=False, markup=False, soft_wrap=True)
    attempt = _Attempt()
    above, logs = (run_dir.parent, run_dir.parent) if run_dir else (Path(), Path("runs"))
    try:
        with (
            EmbeddedService(state_dir or above, logs) as service,
            RunClient(service.url, service.token) as client,
        ):
            _run(attempt, service, client, spec, run_dir, start, console)
    except ServiceError as error:
        refused = isinstance(error, RefusedRequest) and error.status < HTTPStatus.INTERNAL_SERVER_ERROR
        fail(str(error), USER_ERROR if refused else RUN_ERROR)
    except BrokenPipeError:
        raise  # Nobody reads along any more.
    except OSError as error:
        fail(f"the run folder cannot be made: {in_words(error)} (--run-dir)")
    except KeyboardInterrupt:
        attempt.interrupted = True
    # What the run has come to is settled: no interrupt changes it while it is said, or while this process ends.
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)
    return _conclude(attempt, console)


def _run(
    attempt: _Attempt,
    service: EmbeddedService,
    client: RunClient,
    spec: RunSpec,
    run_dir: Path | None,
    start: Callable[[RunClient], Run],
    console: Console,
) -> None:
    seen = _last_event(run_dir)
    attempt.run = run = start(client)
    folder = Path(run["run_dir"])
    service.move_log(RunFolder(folder).logs / "orchestrator.log")
    service.say_where(RunFolder(folder).service)
    console.print(visible(f"run {run['id']} in {folder}"), highlight=False, soft_wrap=True, markup=False)
    connect = partial(RunClient, service.url, service.token)
    with (
        make_display(console, run["id"], spec.training.steps) as display,
        Snapshots(connect, run["id"], display, pipeline=console.is_terminal),
    ):
        try:
            attempt.run = follow(client, run["id"], display, seen)
        except KeyboardInterrupt:
            attempt.interrupted = True
            display.note("stopping: a checkpoint is written first… (Ctrl-C again: at once)")
            attempt.run = client.stop(run["id"])


def _last_event(run_dir: Path | None) -> str:
    """Id of the newest event of an earlier start; "" where there is none."""
    path = RunFolder(run_dir).events if run_dir is not None else None
    rows = read_json_lines(path) if path is not None and path.exists() else []
    return rows[-1]["id"] if rows else ""


def _conclude(attempt: _Attempt, console: Console) -> Finished:
    """Say how the run ended, and leave with the exit code of that unless it has succeeded."""
    if attempt.run is None:
        fail("interrupted", INTERRUPTED)
    run, folder = attempt.run, Path(attempt.run["run_dir"])
    summary = _summary(folder)
    if run["state"] not in ENDED and summary:
        # The second interrupt did not wait for the service's answer; the run's folder has it.
        run = Run(**{**run, "state": summary["state"], "message": summary["message"]})
    _report(run, summary, folder, console)
    if run["state"] == "succeeded":
        return Finished(folder, attempt.interrupted)
    if run["state"] not in ENDED:
        fail("interrupted", INTERRUPTED)
    raise typer.Exit(INTERRUPTED if attempt.interrupted and run["state"] == "stopped" else RUN_ERROR)


def _summary(folder: Path) -> dict[str, Any] | None:
    path = RunFolder(folder).summary
    if not path.exists():
        return None
    summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def _report(end: Run, summary: Mapping[str, Any] | None, folder: Path, console: Console) -> None:
    lines = []
    if end["state"] in ENDED:
        lines.append(f"run {end['id']} {end['state']}")
    if end["message"] and end["state"] in ("succeeded", "failed"):
        lines[0] += f": {end['message']}"
    lines += summary_lines(summary) if summary else []
    lines.append(f"run folder  {folder}")
    if end["state"] in ("failed", "stopped", "cancelled"):
        lines.append(f"go on       dapo train --resume {folder}")
    curves = RunFolder(folder).curves
    if curves.exists():
        lines.append(f"curves      {curves}")
    console.print(visible("\n".join(lines)), highlight=False, soft_wrap=True, markup=False)


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """A run's summary.json in words."""
    lines = []
    if summary["steps"]:
        lines.append(f"accuracy    {_change(summary)}")
    for name, rows in summary["evaluations"].items():
        shown = " → ".join(_average(row) for row in rows)
        lines.append(f"evaluation  {name}: {shown}")
    if summary["steps_total"]:
        lines.append(f"steps       {summary['steps']} of {summary['steps_total']} in {duration(summary['elapsed_s'])}")
        lines.append(f"tokens      {summary['generated_tokens']:,} generated")
    if summary["ledger"]:
        states = ", ".join(f"{count} {state}" for state, count in summary["ledger"].items() if count)
        lines.append(f"groups      {sum(summary['ledger'].values())} issued: {states}")
    if summary.get("rested_prompts"):
        lines.append(f"rested      {summary['rested_prompts']} prompts were left out of later epochs")
    if summary.get("restarts"):
        lines.append(f"restarts    {summary['restarts']} (RUN_DIR/events.jsonl says of what and why)")
    return lines


def _change(summary: Mapping[str, Any]) -> str:
    start, end = (_number(summary[name]) for name in ("accuracy_start", "accuracy_end"))
    if summary["steps"] == 1:
        return f"{start}  (one step)"
    averaged = summary["averaged_steps"]
    of = "the first and the last step" if averaged == 1 else f"means of the first and the last {averaged} steps"
    return f"{start} → {end}  ({of})"


def _average(row: Mapping[str, Any]) -> str:
    average = row["avg_at_k"]
    if average is None:
        return "–"
    interval = f"[{average['low']:.3f}, {average['high']:.3f}]"
    return f"avg@{row['samples']} {average['value']:.3f} {interval} at step {row['step']}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
