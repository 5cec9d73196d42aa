"""A grading process: `python -m services.verifier.sandbox MEMORY_MIB [MODULE …]`. Its parent is `pool.GradingPool`.

Lines of JSON over stdin and stdout: in comes a list of [grader, text, gold]; out goes, as each is done, one line
[correct, score, reason, extracted], so the parent knows which one is being graded. A grader that raises ends the
process: the parent takes that for a crash of the very grading.
"""

import importlib
import json
import os
import resource
import signal
import sys
from collections.abc import Sequence
from typing import BinaryIO

from dapo.process import die_with_parent
from services.verifier.graders import GRADERS, MAX_EXTRACTED

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
    """Grade until the parent closes its end."""
    replies.write(READY)
    while line := requests.readline():
        for grader, text, gold in json.loads(line):
            verdict = GRADERS[grader].grade(text, gold)
            short = verdict._replace(extracted=verdict.extracted[:MAX_EXTRACTED])
            replies.write(json.dumps(short).encode() + b"\n")


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
