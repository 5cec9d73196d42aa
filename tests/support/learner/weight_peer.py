"""A rank of a weight group in a process of its own, for what may hang or end a process. Its arguments:

- `alone DEADLINE`: a learner whose NCCL peer never comes; then a group of its own;
- `receive BACKEND NAME PORT COUNT TIMES`: rank 1; prints the SHA-256 of each broadcast, then stands still.
"""

import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch

from services.learner.weights.transport import WeightGroup, WeightGroupError
from tests.support.paths import REPO
from tests.support.receiving import ReceivingGroup

ADDRESS = "127.0.0.1"


def alone(deadline_s: float) -> None:
    began = time.monotonic()
    group = WeightGroup("lonely", 2, "nccl", deadline_s, ADDRESS)
    group.join(deadline_s)
    try:
        group.broadcast(torch.zeros(2**20, dtype=torch.uint8, device="cuda"), deadline_s)
        say("sent")
    except WeightGroupError as error:
        say(f"refused after {time.monotonic() - began:.1f} s: {error}")
    group.close()
    say(f"closed after {time.monotonic() - began:.1f} s")
    # Longer than torch's watchdog takes to end a process for a collective that was due by then.
    time.sleep(deadline_s + 5)
    own = WeightGroup("own", 1, "nccl", deadline_s, ADDRESS)
    own.join(deadline_s)
    own.broadcast(torch.ones(2**20, dtype=torch.uint8, device="cuda"), deadline_s)
    own.close()
    say("alive")


def receive(backend: str, name: str, port: int, count: int, times: int) -> None:
    group = ReceivingGroup(name, ADDRESS, port, 2, backend, timedelta(seconds=60))
    for _ in range(times):
        say(hashlib.sha256(group.receive(count).numpy().tobytes()).hexdigest())
    time.sleep(600)


@contextmanager
def peer(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Such a process, which is killed with the block."""
    command = [sys.executable, "-m", "tests.support.learner.weight_peer", *map(str, arguments)]
    process = subprocess.Popen(command, cwd=REPO, text=True, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def next_hash(process: subprocess.Popen[str]) -> str:
    """Of its next broadcast. NCCL may print there, too."""
    assert process.stdout is not None
    return next(line.strip() for line in process.stdout if re.fullmatch("[0-9a-f]{64}", line.strip()))


def say(line: str) -> None:
    sys.stdout.write(line.replace("\n", " ") + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    if sys.argv[1] == "alone":
        alone(float(sys.argv[2]))
    else:
        receive(sys.argv[2], sys.argv[3], *map(int, sys.argv[4:]))
