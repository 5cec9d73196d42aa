"""`dapo runs export` and `dapo runs exports`: checkpoints as Hugging Face folders, written by a run's service."""

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dapo.cli.errors import RUN_ERROR, fail
from dapo.cli.output import AsJson, AsJsonLines, note, print_json, print_rows, print_table
from dapo.cli.runs.where import RunName, Url, find_run
from dapo.host.storage import in_words
from dapo.records.checkpoints import ExportDtype
from dapo.terminal import Column, visible

if TYPE_CHECKING:
    from dapo.client import Export, RunClient

_UNDER_WAY = ("queued", "running")
_PAUSE_S = 1.0


def export(
    run: RunName,
    out: Annotated[
        Path | None, typer.Argument(help="New directory here to copy it to; without, it stays at the service alone.")
    ] = None,
    step: Annotated[int | None, typer.Option(min=0, help="Of a checkpoint that was kept; default: the newest.")] = None,
    dtype: Annotated[
        ExportDtype | None, typer.Option(help="Of the weights; as-base, the default: that of the base model.")
    ] = None,
    adapter: Annotated[bool, typer.Option("--adapter", help="The LoRA adapter alone, in PEFT's format.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Until it is written; Ctrl-C leaves it alone.")] = True,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Have a run's service write a checkpoint as a Hugging Face folder below the run's, and print where."""
    if out is not None and not wait:
        fail("OUT is copied once it is written: leave out --no-wait")
    if out is not None and out.exists():
        fail(f"{out} is there already: give a new directory")
    if adapter and dtype is not None:
        fail("--adapter writes what was trained, as it is: leave out --dtype")
    form = dtype.value if dtype is not None else ""
    place = find_run(run, url)
    run_id = place.run_id
    with place.client() as client:
        found = client.export(run_id, step=step, dtype=form, adapter=adapter)
        # The newest may be another by now: the one that was begun is asked for.
        name, told = found["name"], ""
        while wait and found["state"] in _UNDER_WAY:
            if told != (told := found["state"]):
                note(f"export {name} is {told}")
            time.sleep(_PAUSE_S)
            listed = {one["name"]: one for one in client.exports(run_id)}
            if name not in listed:
                fail(f"export {name} is not there any more: somebody has deleted it, or the run", RUN_ERROR)
            found = listed[name]
        if out is not None and found["state"] == "succeeded":
            _copy(client, run_id, found, out)
    _tell(found, out, as_json=as_json)


def _copy(client: "RunClient", run_id: str, found: "Export", out: Path) -> None:
    """All of it or nothing. Leaves with a message for what is no folder of files."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent, ignore_cleanup_errors=True) as beside:
            partial = Path(beside) / out.name
            partial.mkdir()
            for name, size in found["files"].items():
                path = partial / name
                if not path.resolve().is_relative_to(partial.resolve()):
                    fail(f"the export has a file outside of its folder: {name}", RUN_ERROR)
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    for data in client.export_file(run_id, found["name"], name):
                        file.write(data)
                if path.stat().st_size != size:
                    fail(f"{name} has come with {path.stat().st_size} bytes of {size}: ask again", RUN_ERROR)
            partial.rename(out)
    except OSError as error:
        fail(f"{out} cannot be written: {in_words(error)}")


def _tell(found: "Export", out: Path | None, *, as_json: bool) -> None:
    """Leaves with RUN_ERROR where it has failed."""
    copy = str(out.resolve()) if out is not None and found["state"] == "succeeded" else None
    if as_json:
        print_json({**found, "copy": copy})
    elif found["state"] == "succeeded":
        typer.echo(visible(copy or found["directory"]))
    if found["warning"]:
        note(f"warning: {found['warning']}")
    if found["state"] == "failed":
        fail(f"export {found['name']} has failed: {found['problem']}", RUN_ERROR)
    if found["state"] in _UNDER_WAY:
        note(f"export {found['name']} is {found['state']}; `dapo runs exports` tells how far it is")


def exports(run: RunName, url: Url = None, as_json: AsJsonLines = False) -> None:
    """What was exported of a run, and how far that is."""
    from rich.text import Text

    place = find_run(run, url)
    found = place.ask(lambda client, run_id: client.exports(run_id))
    if as_json:
        print_rows(found)
        return
    columns = [
        Column("export", text=True, whole=True),
        Column("state", text=True),
        Column("MiB"),
        Column("directory", text=True),
    ]
    rows = [
        [
            Text(visible(one["name"])),
            Text(visible(f"{one['state']}: {one['problem']}" if one["problem"] else one["state"])),
            Text(f"{one['size'] / 2**20:,.1f}"),
            Text(visible(one["directory"])),
        ]
        for one in found
    ]
    print_table(columns, rows, f"nothing was exported of run {place.run_id}")
