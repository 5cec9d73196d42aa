"""The `dapo runs` commands: of runs as their service has them, and of what they have written."""

from pathlib import Path
from typing import Annotated

import typer

from dapo.cli.errors import fail
from dapo.cli.runs import remote
from dapo.cli.runs.where import RunName, Url, find_run, full_group_id

runs = typer.Typer(no_args_is_help=True, help="Steer runs and look into them.")
runs.command("list")(remote.list_runs)
runs.command()(remote.resume)
runs.command()(remote.scale)
runs.command()(remote.stop)
runs.command()(remote.purge)
_GROUPS = 4
_PROMPTS = 30


@runs.callback()
def main() -> None:
    pass


@runs.command()
def samples(
    run_dir: Annotated[Path, typer.Argument(help="Folder of a run.")],
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
) -> None:
    """Show recent groups with their responses and verdicts, newest last."""
    from dapo.cli.runs.samples import show_comparison, show_groups
    from dapo.records.samples import SampleFilter

    _exclude({"--wrong": wrong, "--correct": correct})
    _exclude({"--step": step is not None, "--last": last is not None})
    _exclude({"--json": as_json, "--full": full})
    try:
        if compare:
            for name, given in {
                "--wrong": wrong, "--correct": correct, "--truncated": truncated, "--high-variance": high_variance,
                "--step": step is not None, "--full": full,
            }.items():  # fmt: skip
                _exclude({"--compare": True, name: given})
            show_comparison(run_dir, set_name, prompt, last, limit or _PROMPTS, as_json=as_json)
        else:
            wanted = SampleFilter(
                correct=correct if correct or wrong else None,
                truncated=truncated,
                high_variance=high_variance,
                steps=None if step is None else {step},
                prompt=prompt,
            )
            show_groups(run_dir, set_name, wanted, last, limit or _GROUPS, full=full, as_json=as_json)
    except OSError as error:
        fail(str(error))


@runs.command()
def why(
    run: RunName,
    group: Annotated[str, typer.Argument(help="Id of a group, e.g. g0000000012 or g12.")],
    url: Url = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Explain a group: where it is, who holds it, what became of it and why."""
    from dapo.cli.runs.why import show_why

    try:
        show_why(find_run(run, url), full_group_id(group), as_json=as_json)
    except OSError as error:
        fail(str(error))


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

    _exclude({"--requeue": group is not None, "--json": as_json})
    try:
        if group is not None:
            requeue(find_run(run, url), full_group_id(group))
        else:
            show_dead_letters(find_run(run, url), limit, as_json=as_json)
    except OSError as error:
        fail(str(error))


def _exclude(given: dict[str, bool]) -> None:
    """Leaves with a message where more than one of the options is given."""
    if sum(given.values()) > 1:
        fail(f"{' and '.join(name for name, is_given in given.items() if is_given)} exclude each other: leave one out")
