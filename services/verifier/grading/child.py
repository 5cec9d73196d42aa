"""A grading process: `python -m services.verifier.grading.child`. Its parent is `pool.GradingPool`.

Lines of JSON over stdin and stdout. First comes {"memory_mib": …, "graders": {name: options}}; then lists of jobs come
in, and out goes, as each is done, one line, so the parent knows which one is being worked on.

    ["build", grader]                → null, or why the grader cannot be had
    ["grade", grader, text, gold]    → [correct, score, reason, extracted, parts]
    ["measure", text, patterns]      → [fingerprint, repetition, reflection]

A grader is built before it grades. One that raises ends the process: the parent takes that for a crash of that grading.
"""

import json
import os
import resource
import signal
from typing import Any, BinaryIO

from pydantic import TypeAdapter

from dapo.algo.text_statistics import TextStatistics, measure_text
from dapo.host.processes import die_with_parent
from dapo.spec.tree.graders import AnyGrader, GraderSpec
from services.verifier.graders import MAX_EXTRACTED, Grade, Unbuildable, Verdict, build

READY = b"ready\n"


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """The pipes to the parent, out of a grader's reach: it finds an empty stdin, and what it prints goes to stderr."""
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, replies


def _limit(memory_mib: int) -> None:
    # The hard limit stays, as programs that `code` runs have a limit of their own.
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _Workshop:
    """Does the jobs."""

    def __init__(self, graders: dict[str, AnyGrader]) -> None:
        self._options = graders
        self._built: dict[str, Grade] = {}

    def work(self, kind: str, *arguments: Any) -> str | Verdict | TextStatistics | None:
        match kind:
            case "build":
                return self._build(*arguments)
            case "measure":
                return measure_text(*arguments)
            case _:
                return self._grade(*arguments)

    def _build(self, name: str) -> str | None:
        try:
            self._built[name] = build(self._options[name])
        except Unbuildable as error:
            return str(error)
        return None

    def _grade(self, name: str, text: str, gold: str) -> Verdict:
        verdict = self._built[name](text, gold)
        return verdict._replace(extracted=verdict.extracted[:MAX_EXTRACTED])


def serve(workshop: _Workshop, requests: BinaryIO, replies: BinaryIO) -> None:
    """Work until the parent closes its end."""
    replies.write(READY)
    while line := requests.readline():
        for job in json.loads(line):
            replies.write(json.dumps(workshop.work(*job)).encode() + b"\n")


def main() -> None:
    die_with_parent(signal.SIGKILL)
    # Ctrl-C reaches the whole foreground group; only the parent decides when grading ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = _take_pipes()
    configuration = json.loads(requests.readline())
    graders = TypeAdapter(dict[str, GraderSpec]).validate_python(configuration["graders"])
    _limit(configuration["memory_mib"])
    serve(_Workshop(graders), requests, replies)


if __name__ == "__main__":
    main()
