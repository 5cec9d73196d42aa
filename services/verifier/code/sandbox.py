"""The sandbox as the grading process sees it: runs programs, and tests of programs, in forks of the template."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

from dapo.spec.tree.graders import CodeGrader

_COMMAND = (sys.executable, "-s", "-B", "-m", "services.verifier.code.template")
_ENVIRONMENT = {
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
}
_MESSAGE_BYTES = 65536
_READ_BYTES = 64 << 20
_START_DEADLINE_S = 60.0
_SLACK_S = 3.0
_PROBE = b"""
import _thread, os, socket, sys
def refused(action, *arguments):
    try:
        action(*arguments)
    except (PermissionError, RuntimeError):
        return True
print(all((
    refused(open, "/dev/null"), refused(os.listdir, "/"), refused(os.stat, "/"), refused(os.chdir, "/"),
    refused(os.memfd_create, "m"), refused(os.pipe), refused(socket.socket), refused(os.kill, os.getppid(), 0),
    refused(os.fork), refused(os.execv, sys.executable, ["python"]), refused(_thread.start_new_thread, print, ()),
)))
"""


class SandboxStartError(Exception):
    """Programs cannot be confined on this machine, or a module is missing. The message names the cure."""


class ScriptResult(NamedTuple):
    """What a program did that was run as a script."""

    status: int | None
    """Exit status, or minus the signal that ended it; None where it was ended at its deadline."""
    output: bytes
    error: str
    """Last line of its standard error, or that it printed too much."""


class Sandbox:
    """Owns one template process and the socket to it; runs one request at a time.

    At the start a program tries what is forbidden. Raises SandboxStartError if it succeeds, or if a module is missing.

    Any later failure of the template raises OSError or ValueError. The grading process then ends, and the job is tried
    again in another one. A request waits for its own `timeout_s` and 3 s more, a start 60 s.
    """

    def __init__(self, options: CodeGrader) -> None:
        self._memory_mib = options.memory_mib
        self._output_kib = options.output_kib
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
            self._process = subprocess.Popen(
                [*_COMMAND, *options.modules], stdin=theirs.fileno(), env={"PYTHONPATH": path, **_ENVIRONMENT}
            )
        self._channel = ours
        try:
            self._check(_START_DEADLINE_S)
        except SandboxStartError:
            self.close()
            raise

    def close(self) -> None:
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def _check(self, timeout_s: float) -> None:
        self._channel.settimeout(timeout_s)
        started = json.loads(self._channel.recv(_MESSAGE_BYTES) or b'{"error": "the template ended as it started"}')
        if "error" in started:
            raise SandboxStartError(f"`code` cannot start its sandbox: {started['error']}. Install what is missing")
        probe = self.run_script(_PROBE, b"", timeout_s)
        if probe.output != b"True\n":
            found = probe.error or f"{probe.output[:80]!r}"
            raise SandboxStartError(
                f"`code` cannot shut programs in on this machine ({found}). "
                "It needs Linux on x86-64 or ARM64 whose container lets processes install seccomp filters"
            )

    def run_script(self, source: bytes, stdin: bytes, timeout_s: float, expected_bytes: int = 0) -> ScriptResult:
        """The program may print `output_kib`, and besides four times the `expected_bytes` of a test's own output: white
        space does not count there, and floating-point numbers may have more digits."""
        cap = (self._output_kib << 10) + 4 * expected_bytes
        with _files(source, stdin, b"", b"") as (code, given, output, error), _nothing(2) as line:
            self._send(["script"], [given, output, error, code, *line], timeout_s, cap)
            (status,) = self._receive()
            return ScriptResult(status, _content(output), _how_it_ended(status, error, cap))

    def run_tests(self, source: bytes, tests: bytes, role: str, timeout_s: float) -> tuple[list[Any], str]:
        """(results of the tests, see `testing.py`; how the program ended, see `ScriptResult.error`)."""
        cap = self._output_kib << 10
        with _files(source, tests, *[b""] * 6) as (code, task, *streams):
            # Each process gets files of its own, so that the program cannot read what the tests print.
            given, printed, error, tests_given, verdicts, lost = streams
            # Only the two processes may hold the pipes, or the tests would not notice the end of the program.
            with _pipe() as (to_program, from_tests), _pipe() as (to_tests, from_program):
                files = [
                    *(given, printed, error, code, to_program, from_program),
                    *(tests_given, verdicts, lost, task, to_tests, from_tests),
                ]
                self._send(["functions", role], files, timeout_s, cap)
            status, _ = self._receive()
            *whole, _ = _content(verdicts).split(b"\n")
            return [json.loads(line) for line in whole], _how_it_ended(status, error, cap)

    def _send(self, children: Sequence[str], files: Sequence[int], timeout_s: float, output_bytes: int) -> None:
        self._channel.settimeout(timeout_s + _SLACK_S)
        request = {
            "children": children,
            "timeout_s": timeout_s,
            "memory_mib": self._memory_mib,
            "output_bytes": output_bytes,
        }
        socket.send_fds(self._channel, [json.dumps(request).encode()], files)

    def _receive(self) -> list[int | None]:
        """Exit status of each child; minus the signal that ended it, None where it was ended at the deadline."""
        message = self._channel.recv(_MESSAGE_BYTES)
        if not message:
            raise ConnectionError("the template of the `code` grader is gone, perhaps killed for want of memory")
        statuses: list[int | None] = json.loads(message)["statuses"]
        return statuses


@contextmanager
def _files(*contents: bytes) -> Iterator[list[int]]:
    """Memory files with these contents, positioned at their beginning."""
    with ExitStack() as stack:
        files = []
        for content in contents:
            file = os.memfd_create("dapo")
            stack.callback(os.close, file)
            view = memoryview(content)
            while view:
                view = view[os.write(file, view) :]
            os.lseek(file, 0, os.SEEK_SET)
            files.append(file)
        yield files


@contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


@contextmanager
def _nothing(count: int) -> Iterator[list[int]]:
    file = os.open(os.devnull, os.O_RDWR)
    try:
        yield [file] * count
    finally:
        os.close(file)


def _content(file: int) -> bytes:
    return os.pread(file, _READ_BYTES, 0)


def _how_it_ended(status: int | None, error: int, cap: int) -> str:
    if status == -signal.SIGXFSZ:
        return f"printed more than {cap >> 10} KiB: raise output_kib"
    lines = _content(error).decode(errors="replace").rstrip().splitlines()
    return lines[-1] if lines else ""
