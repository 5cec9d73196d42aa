"""`dapo runs logs`, `checkpoints`, `evaluations`: what a run has written."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dapo.cli.completion import complete_worker
from dapo.cli.output import AsJsonLines, print_json, print_rows, print_table
from dapo.cli.runs.where import RunName, Url, find_run

if TYPE_CHECKING:
    from rich.text import Text

_LINES = 100


def logs(
    run: RunName,
    worker: Annotated[
        str | None,
        typer.Argument(help="E.g. learner-0; without: which workers have a log.", autocompletion=complete_worker),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Then what comes, until the run ends.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=10_000, help="Of its end.")] = _LINES,
    url: Url = None,
    as_json: AsJsonLines = False,
) -> None:
    """The end of a worker's log."""
    from dapo.terminal import visible

    place = find_run(run, url)
    with place.client() as client:
        found: Iterable[str]
        if worker is None:
            key, found = "worker", client.logs(place.run_id)
        else:
            key, found = "line", client.tail(place.run_id, worker, lines, follow=follow)
        for one in found:
            if as_json:
                print_json({key: one})
            else:
                typer.echo(visible(one))


def checkpoints(run: RunName, url: Url = None, as_json: AsJsonLines = False) -> None:
    """The checkpoints of a run that count, the newest first."""
    from rich.text import Text

    from dapo.terminal import Column, visible

    place = find_run(run, url)
    found = place.ask(lambda client, run_id: client.checkpoints(run_id))
    if as_json:
        print_rows(found)
        return
    columns = [Column("step"), Column("MiB"), Column("directory", text=True), Column("damage", text=True)]
    rows = [
        [
            Text(str(one["step"])),
            Text(f"{one['size'] / 2**20:,.1f}"),
            Text(visible(one["directory"])),
            Text(visible(one["damage"]), "bold red"),
        ]
        for one in found
    ]
    print_table(columns, rows, f"run {place.run_id} has no checkpoint")


def evaluations(run: RunName, url: Url = None, as_json: AsJsonLines = False) -> None:
    """A run's evaluations: avg@k of each set at each step, with its 95 % interval."""
    from dapo.records.evaluations import read_evaluations
    from dapo.terminal import Column

    place = find_run(run, url)
    found: Sequence[Mapping[str, Any]] = place.ask_or(
        lambda client, run_id: client.evaluations(run_id), lambda folder: read_evaluations(folder)
    )
    if as_json:
        print_rows(found)
        return
    columns = [Column("set", text=True), Column("step"), Column("k"), Column("avg@k"), Column("interval")]
    columns += [Column("pass@k"), Column("maj@k"), Column("problems"), Column("truncated")]
    rows = [_evaluation(row) for row in sorted(found, key=lambda row: (row["set"], row["step"]))]
    print_table(columns, rows, f"run {place.run_id} has no evaluation yet", keys=2)


def _evaluation(row: Mapping[str, Any]) -> "list[Text]":
    from rich.text import Text

    from dapo.terminal import one_line

    # Where every problem failed there are no measures, and no k.
    k, average = str(row.get("samples", "–")), row.get("avg_at_k")
    truncated = row.get("truncated_share")
    cells = [
        f"{average['value']:.3f}" if average else "–",
        f"{average['low']:.3f}–{average['high']:.3f}" if average else "–",
        *(_measure(row.get(name), k) for name in ("pass_at_k", "maj_at_k")),
        str(row.get("problems", "–")),
        f"{truncated:.0%}" if truncated is not None else "–",
    ]
    return [one_line(row["set"], 40), Text(str(row["step"])), Text(k), *map(Text, cells)]


def _measure(found: Mapping[str, Any] | None, k: str) -> str:
    return f"{found[k]['value']:.3f}" if found and k in found else "–"
