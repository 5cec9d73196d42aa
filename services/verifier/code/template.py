"""The template process, `python -m services.verifier.code.template MODULE …`; its parent is `sandbox.Sandbox`.

A zygote: it imports once what programs may import, and each program is a fork of it. Requests come over the socket on
its standard input, each a JSON object with the file descriptors of its children attached. For each request the children
are forked, the last of them (the leader) is waited for, all are killed, and a reply goes back:

    {"children": [role, …], "timeout_s": …, "memory_mib": …, "output_bytes": …}    → {"statuses": [status, …]}

The statuses are of the children in order; null for one that was killed when the leader had ended, or at the deadline.

A child's files are, in this order: its standard input, output and error, its source, and its two ends of the pipes to
the other child.
"""

import atexit
import fcntl
import gc
import importlib
import io
import json
import math
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from dapo.host.processes import die_with_parent
from services.verifier.code import isolation, prelude, program, seccomp, testing
from services.verifier.code.rpc import RpcConnection

_FILES_PER_CHILD = 6
"""What each child is given."""
_FIRST_SPARE_DESCRIPTOR = 128
"""Descriptors from here on are used by no child."""
_MAX_DESCRIPTORS = 256
_STACK_BYTES = 64 << 20
_VERDICT_BYTES = 64 << 20
_NOT_CONFINED = 70
_MESSAGE_BYTES = 65536
_MODULES = """
abc array ast base64 binascii bisect bz2 calendar cmath cmd codecs collections collections.abc colorsys contextlib
copy copyreg csv ctypes dataclasses datetime decimal difflib dis doctest enum errno fractions functools gc getopt
gettext glob graphlib gzip hashlib heapq hmac html html.parser inspect io itertools json keyword linecache locale
logging lzma math numbers operator os os.path pathlib pickle platform pprint queue random re reprlib sched secrets
select shlex shutil signal stat statistics string stringprep struct sys tempfile textwrap threading time timeit token
tokenize traceback types typing unicodedata unittest urllib.parse uuid warnings weakref xml.etree.ElementTree zipfile
zlib _strptime encodings.ascii encodings.latin_1 encodings.utf_8 encodings.utf_8_sig encodings.utf_16 encodings.utf_32
encodings.cp1252 encodings.unicode_escape encodings.raw_unicode_escape encodings.idna encodings.punycode
encodings.hex_codec encodings.rot_13 encodings.base64_codec
"""


def main(modules: Sequence[str]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_DESCRIPTORS, _MAX_DESCRIPTORS))
    try:
        for name in (*_MODULES.split(), *modules):
            importlib.import_module(name)
        prelude.add_usual_names()
        template = _Template(channel)
    except (ImportError, OSError) as error:
        channel.send(json.dumps({"error": str(error)}).encode())
        return
    os.environ.clear()
    atexit._clear()
    isolation.isolate()
    die_with_parent(signal.SIGKILL)  # after isolate(): the kernel clears it on a change of identity
    gc.collect()
    gc.freeze()
    with suppress(BrokenPipeError, ConnectionResetError):  # the parent is gone, perhaps with a reply unread
        channel.send(b"{}")
        template.serve()


class _Template:
    """The loop of the template: one request at a time, each in new forks.

    Invariants: no fork outlives its request; a fork runs a program only under its resource limits and the seccomp
    filter (else it exits with _NOT_CONFINED); the template itself never reads a program or a test, so its memory, which
    every fork inherits, holds no secret. It ends with its parent and keeps no state between requests.

    Waits for a request without limit, for its leader at most `timeout_s`. Raises OSError if there is no filter for this
    machine.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._filter = seccomp.load_filter()
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        self._own_bytes = pages * resource.getpagesize()

    def serve(self) -> None:
        """Until the parent closes its end."""
        while True:
            message, files, _, _ = socket.recv_fds(self._channel, _MESSAGE_BYTES, _MAX_DESCRIPTORS)
            if not message:
                return
            self._channel.send(json.dumps(self._run(json.loads(message), files)).encode())

    def _run(self, request: dict[str, Any], files: Sequence[int]) -> dict[str, Any]:
        deadline = time.monotonic() + request["timeout_s"]
        living = {}
        for index, role in enumerate(request["children"]):
            pid = os.fork()
            if pid == 0:
                self._be_child(role, files[index * _FILES_PER_CHILD : (index + 1) * _FILES_PER_CHILD], request)
            living[pid] = role
        for file in files:
            os.close(file)
        leader = next(reversed(living))
        ended: dict[int, int] = {}
        while leader not in ended and (left := deadline - time.monotonic()) > 0:
            signal.sigtimedwait({signal.SIGCHLD}, left)
            for pid in living.keys() - ended.keys():
                gone, status = os.waitpid(pid, os.WNOHANG)
                if gone:
                    ended[pid] = os.waitstatus_to_exitcode(status)
        for pid in living.keys() - ended.keys():
            os.kill(pid, signal.SIGKILL)
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if status != -signal.SIGKILL:  # It was about to end by itself.
                ended[pid] = status
        return {"statuses": [ended.get(pid) for pid in living]}

    def _be_child(self, role: str, files: Sequence[int], request: dict[str, Any]) -> NoReturn:
        status = _NOT_CONFINED
        try:
            _take_files(files)
            self._limit(role, request)
            source = _read_all(3)
            line = RpcConnection(os.fdopen(4, "rb"), os.fdopen(5, "wb"))
            program.reset_interpreter(
                os.fdopen(0, closefd=False),
                os.fdopen(1, "w", closefd=False),
                os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False),
            )
            prelude.name_streams()
            gc.enable()
            self._filter.install()
            status = _ROLES[role](source, line)
        finally:
            os._exit(status)

    def _limit(self, role: str, request: dict[str, Any]) -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        die_with_parent(signal.SIGKILL)
        memory = self._own_bytes + (request["memory_mib"] << 20)
        seconds = math.ceil(request["timeout_s"]) + 1
        written = request["output_bytes"] if role in _PROGRAMS else _VERDICT_BYTES
        for kind, most in (
            (resource.RLIMIT_AS, memory),
            (resource.RLIMIT_CPU, seconds),
            (resource.RLIMIT_FSIZE, written),
            (resource.RLIMIT_STACK, _STACK_BYTES),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NPROC, 0),
            (resource.RLIMIT_MEMLOCK, 0),
            (resource.RLIMIT_NOFILE, _FILES_PER_CHILD),
        ):
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))


def _take_files(files: Sequence[int]) -> None:
    """Make them descriptors 0, 1, 2 …, and close all others."""
    for target, file in enumerate([_move_up(file) for file in files]):
        os.dup2(file, target)
    os.closerange(_FILES_PER_CHILD, _MAX_DESCRIPTORS)


def _move_up(file: int) -> int:
    return fcntl.fcntl(file, fcntl.F_DUPFD, _FIRST_SPARE_DESCRIPTOR)


def _read_all(number: int) -> bytes:
    with open(number, "rb") as file:
        return file.read()


def _run_script(source: bytes, line: RpcConnection) -> int:
    return program.run_script(source)


def _run_asserts(source: bytes, line: RpcConnection) -> int:
    return _run_tests(testing.run_asserts, source, line)


def _run_calls(source: bytes, line: RpcConnection) -> int:
    return _run_tests(testing.run_calls, source, line)


def _run_tests(run: Any, source: bytes, line: RpcConnection) -> int:
    def tell(message: Any) -> None:
        os.write(1, json.dumps(message).encode() + b"\n")

    sys.stdout = io.StringIO()  # what tests print must not reach the verdict
    run(source, testing.ProgramProxy(line), tell)
    return 0


_PROGRAMS = ("script", "functions")
_ROLES = {"script": _run_script, "functions": program.run_functions, "asserts": _run_asserts, "calls": _run_calls}


if __name__ == "__main__":
    main(sys.argv[1:])
