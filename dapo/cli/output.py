"""What a command prints: data to stdout, as tables or as JSON lines, and what is said of them to stderr."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from dapo.terminal import Column, WideTable, natural_width, visible

AsJson = Annotated[bool, typer.Option("--json", help="One JSON document.")]
AsJsonLines = Annotated[bool, typer.Option("--json", help="One JSON document a line, for each row.")]


def print_json(value: Any) -> None:
    """On one line, in ASCII, so that nothing in it can steer a terminal."""
    typer.echo(json.dumps(value))


def print_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """One JSON document a line."""
    for row in rows:
        print_json(row)


def print_table(columns: Sequence[Column], rows: Sequence[Sequence[Text]], nothing: str, *, keys: int = 1) -> None:
    """`nothing` is said where there are no rows. Without a terminal a row is a line, unless COLUMNS says how wide."""
    if rows:
        console = Console(highlight=False)
        if not console.is_terminal and "COLUMNS" not in os.environ:
            console.width = max(console.width, natural_width(columns, rows))
        console.print(WideTable(columns, rows, keys=keys))
    else:
        note(nothing)


def note(text: str) -> None:
    """To whoever reads along."""
    typer.echo(visible(text), err=True)
