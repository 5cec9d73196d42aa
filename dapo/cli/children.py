"""Commands of other services, run as child processes so that the command line itself needs no torch."""

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import NoReturn

import typer

from dapo.cli.errors import INTERRUPTED, fail
from dapo.environment import SERVICE_KEYS
from dapo.host.processes import child_environment, describe_exit, python_command

# Children import what is installed, whatever folders named `services` or `redis` lie in the working directory.
SAFE_PATH = {"PYTHONSAFEPATH": "1"}


def require_torch(what: str) -> None:
    """Leave with a worded error where torch is not installed."""
    if find_spec("torch") is None:
        fail(f"{what} needs torch, which is not installed: run `make install`, or pip install '.[generator,learner]'")


def become_module(module: str, *arguments: str, **variables: str) -> NoReturn:
    """Replace this process by `python -m module arguments…`: its exit code and its signals are then the command's.

    `variables` are set in its environment.
    """
    sys.stdout.flush()
    os.execve(sys.executable, python_command(module, *arguments), os.environ | SAFE_PATH | variables)


def run_module(module: str, *arguments: str) -> None:
    """Run `python -m module arguments…` in the foreground; leave with its exit code where that is not 0. It says itself
    what went wrong, unless a signal ends it."""
    process = subprocess.Popen(
        python_command(module, *arguments), env=child_environment(SAFE_PATH, without=SERVICE_KEYS)
    )
    try:
        code = process.wait()
    except KeyboardInterrupt:
        # The terminal sent Ctrl-C to the child as well.
        process.wait()
        fail("interrupted", INTERRUPTED)
    if code > 0:
        raise typer.Exit(code)
    if code:
        fail(f"python -m {module} {describe_exit(code)}", 1)
