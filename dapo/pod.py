"""`python -m dapo.pod MODULE`: the first process of a Kubernetes pod, which runs one worker of a run, or several, once.

The pod's name says which replicas they are. What a worker writes goes to the container's log and to a file of the run's
folder; signals are handed on to it; its exit code is the container's. Of several, each has its share of the container's
GPUs; the first that ends with an error ends the others, and which ended by themselves, with which code, is the
container's termination message. A container that is started again in the same pod runs nothing: dapo alone restarts
workers, by replacing pods, as it alone knows whether a restart helps.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, BinaryIO

from dapo.environment import SERVICE_KEYS
from dapo.host.devices import DeviceError, visible_cuda_devices
from dapo.host.processes import child_environment, describe_exit, python_command
from dapo.host.storage import in_words
from dapo.records.folder import RunFolder

POD = "DAPO_POD"
"""Environment variable: the pod's name."""
WORKLOAD = "DAPO_WORKLOAD"
WORKERS = "DAPO_POD_WORKERS"
"""Environment variable: how many workers of its workload run in each pod; not set: one."""
FOLDER = "DAPO_POD_FOLDER"
"""Environment variable: a folder that is kept as long as the pod."""
DEFAULT_FOLDER = "/run/dapo-pod"
MESSAGE = "DAPO_POD_MESSAGE"
"""Environment variable: the file of the container's termination message."""
DEFAULT_MESSAGE = "/dev/termination-log"
COMPLETION_INDEX = "JOB_COMPLETION_INDEX"
_MARK = "ran"
_BLOCK = 1 << 16
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LAST_WORDS_S = 2.0
_END_S = 5.0
"""What is left to a worker whose neighbour has failed: a rank of the learner has nothing to save."""
_SHELL_SIGNAL = 128
"""What a shell adds to a signal's number for the exit code."""


class PodError(ValueError):
    """This process was not started by the launcher `kubernetes`; the message says what is missing."""


def identify(environment: Mapping[str, str]) -> list[dict[str, str]]:
    """What the environments of a pod's workers say of each beyond what all of its workload share: its id and its index
    from 0, from the index of a Job's pod or else the number at the end of the pod's name. Raises PodError."""
    workload = environment.get(WORKLOAD)
    if not workload:
        raise PodError(f"{WORKLOAD} is not set: the launcher `kubernetes` starts this program")
    index = environment.get(COMPLETION_INDEX)
    if index is None:
        found = re.search(r"-(\d+)$", environment.get(POD, ""))
        if found is None:
            raise PodError(f"{POD}={environment.get(POD, '')!r} ends with no number, and {COMPLETION_INDEX} is not set")
        index = found[1]
    count = environment.get(WORKERS, "1")
    if not count.isdecimal() or not int(count):
        raise PodError(f"{WORKERS}={count!r} is no number of workers: the launcher `kubernetes` sets it")
    return [
        {"DAPO_WORKER_ID": f"{workload}-{replica}", "DAPO_REPLICA": str(replica)}
        for replica in replicas_of(int(index), int(count))
    ]


def replicas_of(pod: int, workers: int) -> range:
    """Indexes of the workers in the pod of an index, each pod of its workload having so many."""
    return range(pod * workers, (pod + 1) * workers)


def share_gpus(devices: Sequence[str], workers: int) -> list[dict[str, str]]:
    """What each worker's environment says of the container's GPUs: each has as many for itself. Where there are fewer
    than workers, nothing, and each sees them all, as the launcher `local` has it."""
    each = len(devices) // workers
    if not each:
        return [{} for _ in range(workers)]
    shares = (devices[first : first + each] for first in range(0, workers * each, each))
    return [{"CUDA_VISIBLE_DEVICES": ",".join(share)} for share in shares]


def exit_code(code: int) -> int:
    """Of a process that ended with `code` (minus the signal that ended it), as a container's."""
    return code if code >= 0 else _SHELL_SIGNAL - code


def ends_message(ends: Mapping[str, int]) -> str:
    """The termination message of a container whose workers ended by themselves with these codes (minus the signal)."""
    return json.dumps({worker: exit_code(code) for worker, code in ends.items()})


def read_ends(message: str | None) -> dict[str, int] | None:
    """What `ends_message` was told, as exit codes of containers; None of any other text."""
    try:
        found = json.loads(message or "")
    except ValueError:
        return None
    whole = isinstance(found, dict) and found and all(type(code) is int for code in found.values())
    return found if whole else None


def run_once(module: str, environment: Mapping[str, str], folder: Path) -> int:
    """Run the workers, and return the container's exit code; where they have run in this pod before, wait to be ended.

    `folder` is kept as long as the pod. Raises PodError, DeviceError, OSError.
    """
    workers = identify(environment)
    ids = [one["DAPO_WORKER_ID"] for one in workers]
    mark = folder / _MARK
    if mark.exists():
        return _wait_to_be_ended(ids, mark.read_text(encoding="utf-8").strip())
    shares = share_gpus(visible_cuda_devices(), len(workers)) if len(workers) > 1 else [{}]
    mark.write_text("killed with its container\n", encoding="utf-8")
    logs = RunFolder(Path(environment["DAPO_RUN_DIR"])).logs
    logs.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context((logs / f"{worker}.log").open("ab", buffering=0)) for worker in ids]
        ends = _Workers().run(module, [one | share for one, share in zip(workers, shares, strict=True)], files)
    if len(workers) > 1:
        told = "; ".join(f"{worker} {describe_exit(code)}" for worker, code in ends.items())
        _leave_message(Path(environment.get(MESSAGE, DEFAULT_MESSAGE)), ends)
    else:
        told = describe_exit(ends[ids[0]])
    mark.write_text(f"{told}\n", encoding="utf-8")
    return exit_code(next((code for code in ends.values() if code), 0))


def _leave_message(path: Path, ends: Mapping[str, int]) -> None:
    """Where it cannot be left, the container's exit code is taken for that of each worker."""
    try:
        path.write_text(ends_message(ends), encoding="utf-8")
    except OSError as error:
        sys.stderr.write(f"the termination message cannot be written: {in_words(error)}\n")


def _wait_to_be_ended(workers: Sequence[str], how: str) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    have, they = ("has", "it is") if len(workers) == 1 else ("have", "they are")
    sys.stderr.write(f"{', '.join(workers)} {have} run in this pod ({how}): {they} run again in another one\n")
    sys.stderr.flush()
    signal.sigwait(_SIGNALS)
    return 0


class _Workers:
    """Those of this pod, from their start until the last has ended.

    Parts: the processes that run, and who has ended by itself, in that order.
    Promises: each is reaped, and so is whoever they leave behind; a signal reaches all, one that comes early, too; once
    one has failed the others end within `_END_S`, unless a signal has come: then they have the pod's own time.
    """

    def __init__(self) -> None:
        self._running: dict[int, str] = {}
        """By pid."""
        self._ends: dict[str, int] = {}
        self._early: list[int] = []
        self._started = False
        self._told = False
        """All of them, by a signal, to end."""
        self._asked = False
        """Those that are left, for one that failed."""

    def run(
        self, module: str, environments: Sequence[Mapping[str, str]], logs: Sequence[BinaryIO]
    ) -> Mapping[str, int]:
        """Worker id → exit code, or minus the signal that ended it, of those that were not ended for another's sake."""
        for handled in _SIGNALS:
            signal.signal(handled, self._hand_on)
        processes = [_start(module, environment) for environment in environments]
        ids = [environment["DAPO_WORKER_ID"] for environment in environments]
        self._running |= zip((one.pid for one in processes), ids, strict=True)
        self._started = True
        for number in self._early:
            self._send(number)
        copying = [
            threading.Thread(target=_copy, args=(one.stdout, log, len(logs) == 1), daemon=True)
            for one, log in zip(processes, logs, strict=True)
        ]
        for thread in copying:
            thread.start()
        self._wait()
        # What the workers have left behind may keep the pipes open.
        deadline = time.monotonic() + _LAST_WORDS_S
        for thread in copying:
            thread.join(max(0.0, deadline - time.monotonic()))
        return self._ends

    def _hand_on(self, number: int, _: object) -> None:
        self._told = True
        if self._started:
            self._send(number)
        else:
            self._early.append(number)

    def _send(self, number: int) -> None:
        for pid in list(self._running):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _wait(self) -> None:
        while self._running:
            self._reap(0)
            if self._asked or self._told or not any(self._ends.values()):
                continue
            # One that has ended already may be the cause of the end that was seen first.
            while self._running and self._reap(os.WNOHANG):
                pass
            self._end_others()

    def _reap(self, options: int) -> bool:
        """Whether somebody had ended; a pod's first process is also the parent of all whose own have."""
        pid, status = os.waitpid(-1, options)
        worker = self._running.pop(pid, None)
        if worker is not None and not self._asked:
            self._ends[worker] = os.waitstatus_to_exitcode(status)
        return pid != 0

    def _end_others(self) -> None:
        self._asked = True
        self._send(signal.SIGTERM)
        killing = threading.Timer(_END_S, self._send, (signal.SIGKILL,))
        killing.daemon = True
        killing.start()


def _start(module: str, variables: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    """Raises OSError."""
    return subprocess.Popen(
        python_command(module),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=child_environment(variables, without=SERVICE_KEYS),
    )


def _copy(source: IO[bytes], log: BinaryIO, alone: bool) -> None:
    """To the file and to this process's output; where other workers write there, too, in whole lines."""
    held = b""
    while block := os.read(source.fileno(), _BLOCK):
        _write(log, block)
        held += block
        lines = held if alone or len(held) > _BLOCK else held[: held.rfind(b"\n") + 1]
        _write(sys.stdout.buffer, lines)
        held = held[len(lines) :]
    _write(sys.stdout.buffer, held)


def _write(target: BinaryIO, block: bytes) -> None:
    """A full disk may refuse it: what else is told goes on."""
    with contextlib.suppress(OSError):
        target.write(block)
        target.flush()


def main(arguments: Sequence[str]) -> int:
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m dapo.pod MODULE\n")
        return 2
    try:
        return run_once(arguments[0], os.environ, Path(os.environ.get(FOLDER, DEFAULT_FOLDER)))
    except (PodError, DeviceError, OSError) as error:
        sys.stderr.write(f"error: {in_words(error)}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
