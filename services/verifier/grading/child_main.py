"""What runs in a grading process, `python -m services.verifier.grading.child_main`. Its parent is `pool.GradingPool`.

Lines of JSON over stdin and stdout. The first one in is {"memory_mib": …, "graders": {name: options}}; each further one
is a list of jobs. One line goes out after each job, so the parent knows which job is being worked on.

    ["build", grader]                → null, or why the grader cannot be set up
    ["grade", grader, text, gold]    → [correct, score, reason, extracted, parts]
    ["classify", grader, text]       → what `Grader.answer_class` says of the response
    ["check", grader, gold]          → what `Grader.gold_problem` says of the gold answer
    ["measure", text, patterns]      → [fingerprint, repetition, reflection]

A grader is built before it grades. If one raises, the process ends, and the parent counts the job as crashed.
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
from services.verifier.graders import MAX_EXTRACTED, Grader, GraderSetupError, Verdict, build_grader

READY = b"ready\n"


def _take_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Move the pipes to the parent away from stdin and stdout: a grader reads nothing and prints to stderr."""
    requests = os.fdopen(os.dup(0), "rb")
    replies = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, replies


def _limit(memory_mib: int) -> None:
    # Only the soft limit, as the programs of `code` are given limits of their own.
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class _JobRunner:
    """Executes jobs. Holds the graders that were built in this process."""

    def __init__(self, graders: dict[str, AnyGrader]) -> None:
        self._options = graders
        self._built: dict[str, Grader] = {}

    def run(self, kind: str, *arguments: Any) -> str | Verdict | TextStatistics | None:
        match kind:
            case "build":
                return self._build(*arguments)
            case "measure":
                return measure_text(*arguments)
            case "classify":
                return self._classify(*arguments)
            case "check":
                return self._check(*arguments)
            case _:
                return self._grade(*arguments)

    def _build(self, name: str) -> str | None:
        try:
            self._built[name] = build_grader(self._options[name])
        except GraderSetupError as error:
            return str(error)
        return None

    def _grade(self, name: str, text: str, gold: str) -> Verdict:
        verdict = self._built[name].grade(text, gold)
        return verdict._replace(extracted=verdict.extracted[:MAX_EXTRACTED])

    def _classify(self, name: str, text: str) -> str:
        classify = self._built[name].answer_class
        return "" if classify is None else classify(text)

    def _check(self, name: str, gold: str) -> str:
        return self._built[name].gold_problem(gold)


def serve_jobs(runner: _JobRunner, requests: BinaryIO, replies: BinaryIO) -> None:
    """Execute jobs until the parent closes its end."""
    replies.write(READY)
    while line := requests.readline():
        for job in json.loads(line):
            replies.write(json.dumps(runner.run(*job)).encode() + b"\n")


def main() -> None:
    die_with_parent(signal.SIGKILL)
    # Ctrl-C reaches the whole foreground process group, but only the parent ends grading processes.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = _take_pipes()
    configuration = json.loads(requests.readline())
    graders = TypeAdapter(dict[str, GraderSpec]).validate_python(configuration["graders"])
    _limit(configuration["memory_mib"])
    serve_jobs(_JobRunner(graders), requests, replies)


if __name__ == "__main__":
    main()
