"""The `dapo runs` commands: of runs as their service has them, and of what they have written."""

from pathlib import Path
from typing import Annotated

import typer

from dapo.cli.completion import complete_run
from dapo.cli.errors import fail, told
from dapo.cli.output import AsJson, print_json
from dapo.cli.runs import changes, export, files, listing
from dapo.cli.runs.where import RunName, Url, find_run, full_group_id

runs = typer.Typer(no_args_is_help=True, help="Steer runs and look into them.")
runs.command()(changes.create)
runs.command("list")(listing.list_runs)
runs.command()(listing.show)
runs.command()(changes.stop)
runs.command()(changes.cancel)
runs.command()(changes.resume)
runs.command()(changes.scale)
runs.command()(changes.update)
runs.command()(files.logs)
runs.command()(files.evaluations)
runs.command()(files.checkpoints)
runs.command()(export.export)
runs.command()(export.exports)
runs.command()(changes.delete)
runs.command()(changes.purge)
_GROUPS = 4
_PROMPTS = 30


@runs.callback()
def main() -> None:
    pass


@runs.command()
def samples(
    run: RunName,
    wrong: Annotated[bool, typer.Option("--wrong", help="Only wrong responses.")] = False,
    correct: Annotated[bool, typer.Option("--correct", help="Only correct responses.")] = False,
    truncated: Annotated[bool, typer.Option("--truncated", help="Only responses cut at the token limit.")] = False,
    high_variance: Annotated[
        bool, typer.Option("--high-variance", help="Only groups of which a quarter to three quarters are correct.")
    ] = False,
    step: Annotated[int | None, typer.Option(min=0, help="Only groups of this step.")] = None,
    last: Annotated[int | None, typer.Option(min=1, help="Only groups of so many last steps.")] = None,
    set_name: Annotated[str | None, typer.Option("--set", help="An evaluation set instead of training.")] = None,
    prompt: Annotated[str, typer.Option(help="Only the prompt with this row id, or prompts that contain this.")] = "",
    limit: Annotated[
        int | None, typer.Option(min=1, help=f"Groups, default {_GROUPS}; prompts of --compare, default {_PROMPTS}.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Do not shorten texts.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a group or compared prompt.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="The same prompts' answers over the evaluations of a set.")
    ] = False,
    url: Url = None,
) -> None:
    """Show recent groups with their responses and verdicts, newest last: of the run's folder, or of its service."""
    from dapo.cli.samples.show import show_comparison, show_groups
    from dapo.cli.samples.sources import open_source
    from dapo.records.samples import SampleFilter

    _exclude({"--wrong": wrong, "--correct": correct})
    _exclude({"--step": step is not None, "--last": last is not None})
    _exclude({"--json": as_json, "--full": full})
    if compare:
        for name, given in {
            "--wrong": wrong, "--correct": correct, "--truncated": truncated, "--high-variance": high_variance,
            "--step": step is not None, "--full": full,
        }.items():  # fmt: skip
            _exclude({"--compare": True, name: given})
    wanted = SampleFilter(
        correct=correct if correct or wrong else None,
        truncated=truncated,
        high_variance=high_variance,
        steps=None if step is None else {step},
        prompt=prompt,
    )
    with told(OSError), open_source(run, url) as source:
        if compare:
            show_comparison(source, set_name, prompt, last, limit or _PROMPTS, as_json=as_json)
        else:
            show_groups(source, set_name, wanted, last, limit or _GROUPS, full=full, as_json=as_json)


@runs.command()
def watch(
    run: RunName,
    url: Url = None,
    once: Annotated[bool, typer.Option("--once", "--no-follow", help="Show how it stands, and leave.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON line an event; with --once one of how it stands.")
    ] = False,
) -> None:
    """Watch a run until it has ended: state, step and time left, curves, the slowest stage, generators, alerts.

    Goes on by itself where the service starts again or the connection breaks. Ctrl-C leaves the run alone. The exit
    code is 0 where the run succeeded, 1 failed, 3 was stopped, 4 cancelled, 5 where its service was lost for ten
    minutes.
    """
    from dapo.cli.runs.watch import watch as show

    show(find_run(run, url), once=once, as_json=as_json)


@runs.command()
def metrics(
    run: RunName,
    names: Annotated[str, typer.Option(help="Metrics, separated by commas; default all that were measured.")] = "",
    since_step: Annotated[int, typer.Option(min=0, help="Only steps after this one.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Columns by metric, as REST has them.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A line a step.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw the curves here.")] = None,
    url: Url = None,
) -> None:
    """Show what a run has measured: newest values, how they have changed, curves."""
    from dapo.cli.runs.metrics import read, show

    _exclude({"--json": as_json, "--csv": as_csv, "--plot": plot is not None})
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    found = read(find_run(run, url), wanted, since_step, whole=as_json or as_csv)
    with told(OSError, ValueError):
        show(found, wanted, as_json=as_json, as_csv=as_csv, picture=plot)


@runs.command()
def compare(
    names: Annotated[
        list[str],
        typer.Argument(metavar="RUN RUN…", help="Ids of runs, or their folders.", autocompletion=complete_run),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw their curves here, too.")] = None,
    url: Url = None,
) -> None:
    """Show runs side by side: at the same step and at their ends, evaluations, what differs in their specs.

    Evaluations are judged against the first run: those whose 95 % intervals overlap are within noise.
    """
    from rich.console import Console

    from dapo.cli.runs.compare import draw, print_comparison, read
    from dapo.records.measured.comparison import compare as compared

    if len(names) < 2:
        fail("give two runs or more to compare")
    found = [read(find_run(name, url)) for name in names]
    if len({one.id for one in found}) < len(found):
        fail("a run is named twice: give different ones")
    comparison = compared(found)
    if as_json:
        print_json(comparison.model_dump(mode="json"))
    else:
        print_comparison(comparison, Console(highlight=False))
    if plot is not None:
        with told(OSError, ValueError):
            typer.echo(draw(found, plot), err=as_json)


@runs.command()
def why(
    run: RunName,
    group: Annotated[str, typer.Argument(help="Id of a group, e.g. g0000000012 or g12.")],
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Explain a group: where it is, who holds it, what became of it and why."""
    from dapo.cli.runs.why import show_why

    show_why(find_run(run, url), full_group_id(group), as_json=as_json)


@runs.command("dead-letters")
def dead_letters(
    run: RunName,
    url: Url = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a letter.")] = False,
    group: Annotated[
        str | None, typer.Option("--requeue", metavar="GROUP", help="Issue this failed group's prompt once more.")
    ] = None,
) -> None:
    """List what was taken out of circulation, and why; or have a failed group's prompt issued once more."""
    from dapo.cli.runs.why import requeue, show_dead_letters

    if group is not None:
        requeue(find_run(run, url), full_group_id(group), as_json=as_json)
    else:
        show_dead_letters(find_run(run, url), limit, as_json=as_json)


def _exclude(given: dict[str, bool]) -> None:
    """Leaves with a message where more than one of the options is given."""
    if sum(given.values()) > 1:
        fail(f"{' and '.join(name for name, is_given in given.items() if is_given)} exclude each other: leave one out")
