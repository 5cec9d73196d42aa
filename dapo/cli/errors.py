"""How the command line says that something is wrong: one message, no traceback."""

import sys
from typing import NoReturn

import typer

USER_ERROR = 2
RUN_ERROR = 1
INTERRUPTED = 130


def fail(message: str, code: int = USER_ERROR) -> NoReturn:
    """Print the message to stderr and leave with `code`."""
    sys.stderr.write(f"error: {message}\n")
    raise typer.Exit(code)
