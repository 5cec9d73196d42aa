"""`dapo runs create`, `update`, `scale`, `stop`, `cancel`, `resume`, `delete`, `purge`: what changes runs."""

import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dapo.cli.completion import complete_override
from dapo.cli.errors import fail
from dapo.cli.output import AsJson, note, print_json
from dapo.cli.runs.where import RunName, RunPlace, Url, find_run, find_service, service
from dapo.terminal import visible

if TYPE_CHECKING:
    from dapo.client import Run

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a field, e.g. training.steps=100.",
        autocompletion=complete_override,
    ),
]
Labels = Annotated[list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="By which runs are found.")]
Notes = Annotated[str | None, typer.Option(help="Text for people.")]
Priority = Annotated[
    int | None, typer.Option(min=-100, max=100, help="Of runs that wait the highest starts first; 0 at first.")
]


def create(
    spec: Annotated[Path, typer.Argument(help="RunSpec as YAML; its relative paths are those of this folder.")],
    overrides: Overrides = None,
    labels: Labels = None,
    notes: Notes = None,
    priority: Priority = None,
    key: Annotated[
        str, typer.Option("--idempotency-key", help="Of your choice: asked again with it, no second run is made.")
    ] = "",
    wait: Annotated[
        bool, typer.Option("--wait", help="Watch it until it has ended; the exit code says how, as of `watch`.")
    ] = False,
    url: Url = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document; with --wait then one a line for each event.")
    ] = False,
) -> None:
    """Start a run on a run service, and print its id."""
    from dapo.spec.load import dump_yaml, load_spec
    from dapo.spec.problem import SpecError

    try:
        text = dump_yaml(load_spec(spec, overrides or ()))
    except SpecError as error:
        fail(str(error))
    # A request that got lost can be sent again.
    key = key or str(uuid.uuid4())
    address = find_service(url)
    unknown = (
        f". Whether there is a run now is not known; so that there is one, create it again with --idempotency-key {key}"
    )
    with service(*address, unknown) as client:
        run = client.create(
            text,
            labels=_labels(labels),
            notes=notes or "",
            priority=priority or 0,
            idempotency_key=key,
        )
    if as_json:
        print_json(run)
    else:
        typer.echo(visible(run["id"]))
        note(f"run {run['id']} is {run['state']}{_reason(run)}")
    if wait:
        from dapo.cli.runs.watch import watch

        watch(RunPlace(run["id"], *address, None), once=False, as_json=as_json)


def update(
    run: RunName,
    labels: Labels = None,
    unlabel: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Take a label away.")] = None,
    notes: Notes = None,
    priority: Priority = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Change a run's labels, notes or priority; what is not named stays."""
    changed: dict[str, str | None] = {**_labels(labels), **dict.fromkeys(unlabel or ())}
    if not changed and notes is None and priority is None:
        fail("nothing to change: give --label, --unlabel, --notes or --priority")
    found = find_run(run, url).ask(
        lambda client, run_id: client.update(run_id, labels=changed, notes=notes, priority=priority)
    )
    _tell(found, f"run {found['id']} is changed", as_json=as_json)


def scale(
    run: RunName,
    generators: Annotated[int | None, typer.Option(min=1, help="Generators that there shall be.")] = None,
    verifiers: Annotated[int | None, typer.Option(min=1, help="Verifiers that there shall be.")] = None,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Have more or fewer generators or verifiers while a run goes on."""
    if generators is None and verifiers is None:
        fail("nothing to change: give --generators or --verifiers")
    found = find_run(run, url).ask(
        lambda client, run_id: client.update(run_id, generators=generators, verifiers=verifiers)
    )
    _tell(found, f"run {found['id']} is scaled; it is {found['state']}{_at(found)}", as_json=as_json)


def stop(run: RunName, url: Url = None, as_json: AsJson = False) -> None:
    """Have a checkpoint written, then end a run. `dapo runs resume` goes on with it."""
    found = find_run(run, url).ask(lambda client, run_id: client.stop(run_id))
    _tell(found, f"run {found['id']} {found['state']}{_at(found)}", as_json=as_json)


def cancel(run: RunName, url: Url = None, as_json: AsJson = False) -> None:
    """End a run at once, without a checkpoint, or take it from the queue."""
    found = find_run(run, url).ask(lambda client, run_id: client.cancel(run_id))
    _tell(found, f"run {found['id']} {found['state']}{_at(found)}", as_json=as_json)


def resume(run: RunName, overrides: Overrides = None, url: Url = None, as_json: AsJson = False) -> None:
    """Go on with a run that has ended."""
    found = find_run(run, url).ask(lambda client, run_id: client.resume(run_id, overrides or ()))
    how = "is queued" if found["state"] == "queued" else "goes on"
    _tell(found, f"run {found['id']} {how} in {found['run_dir']}{_reason(found)}", as_json=as_json)


def delete(
    run: RunName,
    checkpoints: Annotated[
        bool, typer.Option("--checkpoints", help="These and the spec, too; else they stay in its folder.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Delete a run that has ended, with its records."""
    place = find_run(run, url)
    if not yes:
        what = "its records and its checkpoints" if checkpoints else "its records; its checkpoints stay"
        _confirm(f"delete run {place.run_id}: {what}?")
    place.ask(lambda client, run_id: client.delete(run_id, checkpoints=checkpoints))
    _tell({"id": place.run_id, "deleted": True}, f"run {place.run_id} is deleted", as_json=as_json)


def purge(run: RunName, url: Url = None, as_json: AsJson = False) -> None:
    """Delete what a run that has ended holds in Redis: it can go on from a checkpoint only."""
    place = find_run(run, url)
    place.ask(lambda client, run_id: client.purge(run_id))
    said = f"run {place.run_id} holds nothing in Redis any more"
    _tell({"id": place.run_id, "purged": True}, said, as_json=as_json)


def _labels(given: list[str] | None) -> dict[str, str]:
    """Leaves with a message for one that is none."""
    found = {}
    for one in given or ():
        key, equals, value = one.partition("=")
        if not (key and equals):
            fail(f"--label {one}: give KEY=VALUE, e.g. team=math")
        found[key] = value
    return found


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        fail(f"{question} Nobody can be asked here: give --yes")
    if not typer.confirm(visible(question), err=True):
        note("nothing was done")
        raise typer.Exit


def _tell(value: Any, text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(value)
    else:
        typer.echo(visible(text))


def _at(run: "Run") -> str:
    return f" at step {run['step']} of {run['steps_total']}"


def _reason(run: "Run") -> str:
    return f": {run['message']}" if run["message"] else ""
