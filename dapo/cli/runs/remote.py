"""`dapo runs list`, `resume`, `scale`, `stop`, `purge`: what a run service is asked for its runs."""

from typing import Annotated

import typer

from dapo.cli.runs.where import RunName, Url, find_run, find_service, service


def list_runs(url: Url = None) -> None:
    """The runs of a service, oldest first."""
    from rich.console import Console
    from rich.text import Text

    from dapo.terminal import Column, WideTable

    with service(*find_service(url)) as client:
        found = client.list()
    columns = [Column("run", text=True), Column("state", text=True), Column("step"), Column("folder", text=True)]
    rows = [
        [Text(run["id"]), Text(run["state"]), Text(f"{run['step']}/{run['steps_total']}"), Text(run["run_dir"])]
        for run in found
    ]
    Console(highlight=False).print(WideTable(columns, rows) if rows else "no runs")


def resume(
    run: RunName,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a field, e.g. training.steps=100.")
    ] = None,
    url: Url = None,
) -> None:
    """Go on with a run that has ended."""
    found = find_run(run, url).ask(lambda client, run_id: client.resume(run_id, overrides=overrides or ()))
    typer.echo(f"run {found['id']} goes on in {found['run_dir']}")


def stop(run: RunName, url: Url = None) -> None:
    """Have a checkpoint written, then end a run. `dapo runs resume` goes on with it."""
    found = find_run(run, url).ask(lambda client, run_id: client.stop(run_id))
    typer.echo(f"run {found['id']} {found['state']} at step {found['step']} of {found['steps_total']}")


def scale(
    run: RunName,
    generators: Annotated[int | None, typer.Option(min=1, help="Generators that there shall be.")] = None,
    verifiers: Annotated[int | None, typer.Option(min=1, help="Verifiers that there shall be.")] = None,
    url: Url = None,
) -> None:
    """Have more or fewer generators or verifiers while a run goes on."""
    found = find_run(run, url).ask(
        lambda client, run_id: client.scale(run_id, generators=generators, verifiers=verifiers)
    )
    typer.echo(f"run {found['id']} is scaled; it is {found['state']} at step {found['step']} of {found['steps_total']}")


def purge(run: RunName, url: Url = None) -> None:
    """Delete what a run that has ended holds in Redis: it can go on from a checkpoint only."""
    place = find_run(run, url)
    place.ask(lambda client, run_id: client.purge(run_id))
    typer.echo(f"run {place.run_id} holds nothing in Redis any more")
