"""`dapo runs list`, `resume`, `scale`, `stop`, `purge`: what a run service is asked for its runs."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from dapo.cli.errors import RUN_ERROR, fail

if TYPE_CHECKING:
    from dapo.client import RunClient

URL_VARIABLE = "DAPO_URL"
Url = Annotated[str, typer.Option("--url", envvar=URL_VARIABLE, help="Of the run service (dapo serve).")]
DEFAULT_URL = "http://127.0.0.1:8400"
RunId = Annotated[str, typer.Argument(metavar="RUN", help="Id of the run.")]


@contextmanager
def service(url: str) -> Iterator["RunClient"]:
    """Its client, with the token in DAPO_API_TOKEN; leaves with a sentence where it refuses or does not answer."""
    from dapo.client import TOKEN_VARIABLE, RefusedRequest, RunClient, ServiceError

    try:
        with RunClient(url, os.environ.get(TOKEN_VARIABLE, "")) as client:
            yield client
    except RefusedRequest as error:
        fail(str(error))
    except ServiceError as error:
        fail(f"{error} (at {url}; --url or {URL_VARIABLE} says where it is)", RUN_ERROR)


def list_runs(url: Url = DEFAULT_URL) -> None:
    """The runs of a service, oldest first."""
    from rich.console import Console
    from rich.text import Text

    from dapo.terminal import Column, WideTable

    with service(url) as client:
        found = client.list()
    columns = [Column("run", text=True), Column("state", text=True), Column("step"), Column("folder", text=True)]
    rows = [
        [Text(run["id"]), Text(run["state"]), Text(f"{run['step']}/{run['steps_total']}"), Text(run["run_dir"])]
        for run in found
    ]
    Console(highlight=False).print(WideTable(columns, rows) if rows else "no runs")


def resume(
    run: RunId,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a field, e.g. training.steps=100.")
    ] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Go on with a run that has ended."""
    with service(url) as client:
        found = client.resume(run, overrides=overrides or ())
    typer.echo(f"run {found['id']} goes on in {found['run_dir']}")


def stop(run: RunId, url: Url = DEFAULT_URL) -> None:
    """Have a checkpoint written, then end a run. `dapo runs resume` goes on with it."""
    with service(url) as client:
        found = client.stop(run)
    typer.echo(f"run {found['id']} {found['state']} at step {found['step']} of {found['steps_total']}")


def scale(
    run: RunId,
    generators: Annotated[int | None, typer.Option(min=1, help="Generators that there shall be.")] = None,
    verifiers: Annotated[int | None, typer.Option(min=1, help="Verifiers that there shall be.")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Have more or fewer generators or verifiers while a run goes on."""
    with service(url) as client:
        found = client.scale(run, generators=generators, verifiers=verifiers)
    typer.echo(f"run {found['id']} is scaled; it is {found['state']} at step {found['step']} of {found['steps_total']}")


def purge(run: RunId, url: Url = DEFAULT_URL) -> None:
    """Delete what a run that has ended holds in Redis: it can go on from a checkpoint only."""
    with service(url) as client:
        client.purge(run)
    typer.echo(f"run {run} holds nothing in Redis any more")
