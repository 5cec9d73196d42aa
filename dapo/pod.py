"""`python -m dapo.pod MODULE`: the first process of a Kubernetes pod, which runs one worker of a run, once.

The pod's name says which replica it is. What the worker writes goes to the container's log and to a file of the run's
folder; signals are handed on to it; its exit code is the container's. A container that is started again in the same pod
runs nothing: dapo alone restarts workers, by replacing pods, as it alone knows whether a restart helps.
"""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from dapo.environment import SERVICE_KEYS
from dapo.host.processes import child_environment, describe_exit, python_command
from dapo.host.storage import in_words
from dapo.records.folder import RunFolder

POD = "DAPO_POD"
"""Environment variable: the pod's name."""
WORKLOAD = "DAPO_WORKLOAD"
FOLDER = "DAPO_POD_FOLDER"
"""Environment variable: a folder that is kept as long as the pod."""
DEFAULT_FOLDER = "/run/dapo-pod"
COMPLETION_INDEX = "JOB_COMPLETION_INDEX"
_MARK = "ran"
_BLOCK = 1 << 16
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LAST_WORDS_S = 2.0
_SHELL_SIGNAL = 128
"""What a shell adds to a signal's number for the exit code."""


class PodError(ValueError):
    """This process was not started by the launcher `kubernetes`; the message says what is missing."""


def identify(environment: Mapping[str, str]) -> dict[str, str]:
    """What a worker's environment says of it beyond what all of its workload share: its id and its index from 0, from
    the index of a Job's pod or else the number at the end of the pod's name. Raises PodError."""
    workload = environment.get(WORKLOAD)
    if not workload:
        raise PodError(f"{WORKLOAD} is not set: the launcher `kubernetes` starts this program")
    index = environment.get(COMPLETION_INDEX)
    if index is None:
        found = re.search(r"-(\d+)$", environment.get(POD, ""))
        if found is None:
            raise PodError(f"{POD}={environment.get(POD, '')!r} ends with no number, and {COMPLETION_INDEX} is not set")
        index = found[1]
    return {"DAPO_WORKER_ID": f"{workload}-{int(index)}", "DAPO_REPLICA": str(int(index))}


def exit_code(code: int) -> int:
    """Of a process that ended with `code` (minus the signal that ended it), as a container's."""
    return code if code >= 0 else _SHELL_SIGNAL - code


def run_once(module: str, environment: Mapping[str, str], folder: Path) -> int:
    """Run the worker, and return the container's exit code; where one has run in this pod before, wait to be ended.

    `folder` is kept as long as the pod. Raises PodError, OSError.
    """
    identity = identify(environment)
    mark = folder / _MARK
    if mark.exists():
        return _wait_to_be_ended(identity["DAPO_WORKER_ID"], mark.read_text(encoding="utf-8").strip())
    mark.write_text("killed with its container\n", encoding="utf-8")
    logs = RunFolder(Path(environment["DAPO_RUN_DIR"])).logs
    logs.mkdir(parents=True, exist_ok=True)
    with (logs / f"{identity['DAPO_WORKER_ID']}.log").open("ab", buffering=0) as log:
        code = _run(module, identity, log)
    mark.write_text(f"{describe_exit(code)}\n", encoding="utf-8")
    return exit_code(code)


def _wait_to_be_ended(worker_id: str, how: str) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    sys.stderr.write(f"{worker_id} has run in this pod ({how}): it is run again in another one\n")
    sys.stderr.flush()
    signal.sigwait(_SIGNALS)
    return 0


def _run(module: str, identity: Mapping[str, str], log: BinaryIO) -> int:
    """The worker's exit code, or minus the signal that ended it."""
    early: list[int] = []
    worker: subprocess.Popen[bytes] | None = None

    def hand_on(number: int, _: object) -> None:
        if worker is None:
            early.append(number)
        else:
            os.kill(worker.pid, number)

    for handled in _SIGNALS:
        signal.signal(handled, hand_on)
    worker = subprocess.Popen(
        python_command(module),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=child_environment(identity, without=SERVICE_KEYS),
    )
    for number in early:
        os.kill(worker.pid, number)
    assert worker.stdout is not None
    copying = threading.Thread(target=_copy, args=(worker.stdout, log), daemon=True)
    copying.start()
    code = _reap(worker.pid)
    # What the worker has left behind may keep the pipe open.
    copying.join(_LAST_WORDS_S)
    return code


def _reap(worker: int) -> int:
    """Wait for the worker; a pod's first process is also the parent of all whose own have ended."""
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == worker:
            return os.waitstatus_to_exitcode(status)


def _copy(source: IO[bytes], log: BinaryIO) -> None:
    """To this process's output and to the file, which a full disk may refuse: the other goes on."""
    while block := os.read(source.fileno(), _BLOCK):
        for target in (sys.stdout.buffer, log):
            with contextlib.suppress(OSError):
                target.write(block)
                target.flush()


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m dapo.pod MODULE\n")
        return 2
    try:
        return run_once(arguments[0], os.environ, Path(os.environ.get(FOLDER, DEFAULT_FOLDER)))
    except (PodError, OSError) as error:
        sys.stderr.write(f"error: {in_words(error)}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
