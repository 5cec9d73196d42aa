"""Gold answers are checked by the graders themselves, in a process of the verifier's tools."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dapo.cli.children import SAFE_PATH
from dapo.cli.errors import fail
from dapo.cli.rules import rules_arguments, spec_of_rules
from dapo.environment import SERVICE_KEYS
from dapo.host.processes import child_environment, python_command

if TYPE_CHECKING:
    from dapo.data.source import GoldCheck

_MODULE = "services.verifier.tools.golds"
_END_S = 10.0

GraderName = Annotated[
    str | None,
    typer.Option(
        "--grader", help="Grader that checks the gold answers of rows that name none; default: `reward.grader`."
    ),
]
SpecPath = Annotated[Path | None, typer.Option("--spec", help="Spec whose `reward.grader` and graders are meant.")]


@contextmanager
def gold_check(grader: str | None, path: Path | None) -> "Iterator[GoldCheck]":
    """Leaves with a worded error where a grader is not there or cannot be set up."""
    spec = spec_of_rules(path, [] if grader is None else [f"reward.grader={grader}"])
    default = spec.reward.grader
    process = subprocess.Popen(
        python_command(_MODULE, *rules_arguments(spec)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        env=child_environment(SAFE_PATH, without=SERVICE_KEYS),
    )
    given, told = process.stdin, process.stdout
    assert given is not None
    assert told is not None

    def check(golds: Sequence[tuple[str | None, str]]) -> list[str]:
        try:
            given.write(json.dumps([(name or default, gold) for name, gold in golds]) + "\n")
            given.flush()
            line = told.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            fail(f"the gold answers cannot be checked: python -m {_MODULE} ended with exit code {process.wait(_END_S)}")
        problems: list[str] = json.loads(line)
        return problems

    try:
        yield check
    finally:
        process.terminate()
        process.wait(_END_S)
