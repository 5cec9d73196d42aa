"""A grading process: `python -m services.verifier.sandbox MEMORY_MIB [MODULE …]`. Its parent is `pool.GradingPool`.

Lines of JSON over stdin and stdout: in comes a list of jobs, out goes, as each is done, one line, so the parent knows
which one is being worked on.

    ["grade", grader, text, gold]    → [correct, score, reason, extracted]
    ["measure", text, patterns]      → [fingerprint, repetition, reflection]

A grader that raises ends the process: the parent takes that for a crash of the very grading.
"""

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Sequence
from typing import BinaryIO

from dapo.algo.text_statistics import TextStatistics, measure_text
from dapo.process import die_with_parent
from services.verifier.graders import GRADERS, MAX_EXTRACTED, Verdict

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
    resource.setrlimit(resource.RLIMIT_AS, (memory_mib << 20, memory_mib << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Work until the parent closes its end."""
    replies.write(READY)
    while line := requests.readline():
        for kind, *arguments in json.loads(line):
            replies.write(json.dumps(_WORK[kind](*arguments)).encode() + b"\n")


def _grade(grader: str, text: str, gold: str) -> Verdict:
    verdict = GRADERS[grader].grade(text, gold)
    return verdict._replace(extracted=verdict.extracted[:MAX_EXTRACTED])


_WORK: dict[str, Callable[..., Verdict | TextStatistics]] = {"grade": _grade, "measure": measure_text}


def main(arguments: Sequence[str]) -> None:
    die_with_parent(signal.SIGKILL)
    # Ctrl-C reaches the whole foreground group; only the parent decides when grading ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    memory_mib, *modules = arguments
    pipes = _take_pipes()
    for module in modules:
        importlib.import_module(module)
    _limit(int(memory_mib))
    serve(*pipes)


if __name__ == "__main__":
    main(sys.argv[1:])
