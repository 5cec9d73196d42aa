"""`dapo data reasoning-gym`: rows of a generated task."""

from pathlib import Path
from typing import Annotated

import typer

from dapo.cli.children import become_module


def reasoning_gym(
    task: Annotated[str, typer.Argument(help="Name of the task, e.g. basic_arithmetic; `list` shows all supported.")],
    out: Annotated[Path | None, typer.Argument(help="The .jsonl file to write.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows to write.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same rows.")] = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT.")] = False,
) -> None:
    """Write rows of a task of the library reasoning-gym, for the grader `reasoning_gym`."""
    arguments = [task, *([str(out)] if out else []), "--rows", str(rows), "--seed", str(seed)]
    become_module("services.verifier.tools.reasoning_rows", *arguments, *(["--force"] if force else []))
