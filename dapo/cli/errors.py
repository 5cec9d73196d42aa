"""How the command line says that something is wrong: one message, no traceback."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from dapo.terminal import visible

USER_ERROR = 2
RUN_ERROR = 1
STOPPED = 3
"""A run that was watched was stopped; one that failed leaves with RUN_ERROR."""
CANCELLED = 4
LOST = 5
"""The run service does not answer, or went away: nobody knows what became of the run, or of the request."""
INTERRUPTED = 130


@contextmanager
def told(*kinds: type[Exception]) -> Iterator[None]:
    """Leaves with the message of an error of these kinds. That nobody reads the output any more is none: the command
    ends then, with exit code 1."""
    try:
        yield
    except BrokenPipeError:
        raise
    except kinds as error:
        fail(str(error))


def fail(message: str, code: int = USER_ERROR) -> NoReturn:
    """Print the message to stderr, with nothing in it that could steer a terminal, and leave with `code`."""
    sys.stderr.write(f"error: {visible(message)}\n")
    raise typer.Exit(code)
