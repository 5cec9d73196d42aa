"""`dapo runs list`, `dapo runs show` and `dapo machine`: how runs stand, and what they wait for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from dapo.cli.errors import fail
from dapo.cli.output import AsJson, AsJsonLines, print_json, print_rows, print_table
from dapo.cli.runs.where import RunName, Url, find_run, find_service, service

if TYPE_CHECKING:
    from rich.text import Text

    from dapo.client import Machine, Run, RunClient, RunEvent

STATES = ("queued", "starting", "running", "draining", "succeeded", "failed", "stopped", "cancelled")
_STYLES = {"queued": "yellow", "running": "green", "succeeded": "bold green", "failed": "bold red"}
_REASON_CHARACTERS = 120


def list_runs(
    states: Annotated[
        list[str] | None,
        typer.Option("--state", help=f"Only runs of this state: {', '.join(STATES)}.", autocompletion=lambda: STATES),
    ] = None,
    name: Annotated[str, typer.Option(help="Only runs whose spec has this name.")] = "",
    labels: Annotated[
        list[str] | None, typer.Option("--label", metavar="KEY[=VALUE]", help="Only runs with this label.")
    ] = None,
    url: Url = None,
    as_json: AsJsonLines = False,
) -> None:
    """The runs of a service, oldest first."""
    from dapo.terminal import Column

    for state in states or ():
        if state not in STATES:
            fail(f"--state {state}: a run is {', '.join(STATES[:-1])} or {STATES[-1]}")
    with service(*find_service(url)) as client:
        found = client.list(states=states or (), name=name, labels=labels or ())
    if as_json:
        print_rows(found)
        return
    columns = [Column("run", text=True, whole=True), Column("state", text=True), Column("step")]
    # The rest where any run has it.
    if has_priority := any(run["priority"] for run in found):
        columns.append(Column("priority"))
    columns += [Column("labels", text=True, least=10), Column("why", text=True, least=12)]
    rows = [_row(run, has_priority=has_priority) for run in found]
    shown = [at for at in range(len(columns)) if at < 3 or any(row[at].plain for row in rows)]
    print_table([columns[at] for at in shown], [[row[at] for at in shown] for row in rows], "no runs")


def _row(run: "Run", *, has_priority: bool) -> "list[Text]":
    from rich.text import Text

    from dapo.terminal import one_line, visible

    return [
        Text(visible(run["id"])),
        _state(run),
        Text(_steps(run)),
        *([Text(str(run["priority"]))] if has_priority else []),
        one_line(_labels(run["labels"]), _REASON_CHARACTERS),
        one_line(run["message"], _REASON_CHARACTERS, "dim"),
    ]


def _state(run: "Run") -> "Text":
    from rich.text import Text

    from dapo.terminal import visible

    place, state = run["queue_position"], visible(run["state"])
    return Text(state if place is None else f"{state} #{place}", _STYLES.get(run["state"], ""))


def _steps(run: "Run") -> str:
    return f"{run['step']}/{run['steps_total']}"


def _labels(labels: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in labels.items())


def show(run: RunName, url: Url = None, as_json: AsJson = False) -> None:
    """How a run stands: state, step, labels, groups, where its folder is, its last alert."""
    found, alert = find_run(run, url).ask(lambda client, run_id: (client.get(run_id), _last_alert(client, run_id)))
    if as_json:
        print_json({**found, "last_alert": alert.data if alert is not None else None})
    else:
        _print_panel(found, alert.data["message"] if alert is not None else "")


def _last_alert(client: "RunClient", run_id: str) -> "RunEvent | None":
    """Of what has happened by now."""
    found = None
    for event in client.events(run_id, follow=False):
        if event.kind == "alert" and event.data.get("severity") != "notice":
            found = event
    return found


def _print_panel(run: "Run", alert: str) -> None:
    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    from dapo.terminal import visible

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    groups = ", ".join(f"{count} {state}" for state, count in run["ledger"].items() if count)
    rows: dict[str, str | Text] = {
        "name": run["name"],
        "state": _state(run),
        "why": run["message"],
        "step": f"{run['step']} of {run['steps_total']}",
        "groups": groups,
        "priority": str(run["priority"]) if run["priority"] else "",
        "labels": _labels(run["labels"]),
        "notes": run["notes"],
        "last alert": Text(visible(alert), "yellow"),
        "created": run["created_at"],
        "folder": run["run_dir"],
    }
    for name, value in rows.items():
        text = value if isinstance(value, Text) else Text(visible(value))
        if text.plain:
            grid.add_row(name, text)
    Console(highlight=False).print(
        Panel(grid, title=Text(visible(run["id"]), "bold"), title_align="left", expand=False)
    )


def machine(url: Url = None, as_json: AsJson = False) -> None:
    """What a service's machine has, what is free of it, and which runs wait."""
    with service(*find_service(url)) as client:
        found = client.machine()
    if as_json:
        print_json(found)
    else:
        _print_machine(found)


def _print_machine(found: "Machine") -> None:
    from rich.text import Text

    from dapo.terminal import Column, one_line, visible

    runs, memory = found["runs"], found["memory"]
    have: Sequence[tuple[str, str, str]] = [
        ("GPUs", str(found["gpus"]["free"]), str(found["gpus"]["total"])),
        ("cores", str(found["cores"]["free"]), str(found["cores"]["total"])),
        ("memory GiB", f"{memory['free'] / 2**30:.1f}", f"{memory['total'] / 2**30:.1f}"),
    ]
    columns = [Column("", text=True), Column("free"), Column("of")]
    print_table(columns, [[Text(visible(cell)) for cell in row] for row in have], "")
    most = f" of {runs['most']} at most" if runs["most"] is not None else ""
    typer.echo(f"{runs['under_way']} runs under way{most}, {len(found['queue'])} queued")
    if found["queue"]:
        columns = [Column("#"), Column("run", text=True, whole=True), Column("priority")]
        columns.append(Column("why", text=True, least=12))
        rows = [
            [
                Text(str(one["position"])),
                Text(visible(one["run_id"])),
                Text(str(one["priority"])),
                one_line(one["reason"], _REASON_CHARACTERS, "dim"),
            ]
            for one in found["queue"]
        ]
        print_table(columns, rows, "", keys=2)
    if agents := found.get("agents"):  # an older service tells of none
        titles = ("agent", "role", "host", "release", "GPUs", "worker")
        columns = [Column(title, text=title != "GPUs", whole=title == "agent") for title in titles]
        cells = [
            (
                *(one["id"], one["role"], one["host"], one["release"], str(one["gpus"])),
                f"{one['worker_id']} of {one['run_id']}" if one["run_id"] else "",
            )
            for one in agents
        ]
        print_table(columns, [[Text(visible(cell)) for cell in row] for row in cells], "")
