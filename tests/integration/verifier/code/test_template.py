"""The process that programs of the `code` grader are forked from: killed, orphaned, without privilege or filter."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap

import pytest

from dapo.spec.tree.graders import CodeGrader
from services.verifier.code.sandbox import Sandbox
from services.verifier.grading.pool import GradingPool
from services.verifier.request import GradingRequest
from tests.support.verifier.code import RIGHT, descendants, fenced, gold


def test_a_template_killed_from_outside_costs_no_verdict() -> None:
    others = descendants(os.getpid())

    async def main() -> None:
        pool = GradingPool({"code": CodeGrader(timeout_s=20)}, timeout_s=5.0, processes=1)
        running = asyncio.create_task(pool.run())
        for _ in range(2):
            assert all(one.correct for one in await pool.grade([GradingRequest("code", fenced(RIGHT), gold())] * 3))
            templates = [
                pid
                for pid, command in descendants(os.getpid()).items()
                if pid not in others and "services.verifier.code.template" in command
            ]
            assert len(templates) == 1
            os.kill(templates[0], signal.SIGKILL)
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(main())


@pytest.mark.parametrize("busy", [False, True])
def test_a_template_whose_parent_ends_says_nothing(busy: bool) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "services.verifier.code.template"]
    ours.settimeout(60)
    with ours, theirs, open(os.devnull, "r+b") as nothing:
        template = subprocess.Popen(command, stdin=theirs.fileno(), stderr=subprocess.PIPE)
        theirs.close()
        assert json.loads(ours.recv(65536)) == {}
        if busy:
            limits = {"timeout_s": 5, "memory_mib": 64, "output_bytes": 1024}
            request = json.dumps({"children": ["script"], **limits}).encode()
            socket.send_fds(ours, [request], [nothing.fileno()] * 6)
    _, error = template.communicate(timeout=30)
    assert (template.returncode, error) == (0, b"")


def test_a_template_that_is_gone_is_told_in_words() -> None:
    sandbox = Sandbox(CodeGrader())
    sandbox._process.kill()
    sandbox._process.wait()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sandbox._channel.close()
    sandbox._channel = ours
    with theirs:
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionError, match="template of the `code` grader is gone"):
            sandbox.run_script(b"", b"", 1.0)
    sandbox.close()


CONFINED = """
import ctypes, errno, json, struct, sys
from services.verifier.graders import GraderSetupError, build_grader
from dapo.spec.tree.graders import CodeGrader
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
def deny(number, argument=None):
    code = [(LOAD, 0, 0, 0), (EQUAL, 0, 1 if argument is None else 3, number)]
    if argument is not None:
        code += [(LOAD, 0, 0, 16), (EQUAL, 0, 1, argument)]
    code += [(RETURN, 0, 0, 0x50000 | errno.EPERM), (RETURN, 0, 0, 0x7fff0000)]
    data = b"".join(struct.pack("=HBBI", *one) for one in code)
    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))
    libc = ctypes.CDLL(None, use_errno=True)
    u = ctypes.c_ulong
    assert libc.prctl(u(38), u(1), u(0), u(0), u(0)) == 0
    assert libc.prctl(u(22), u(2), ctypes.byref(Program(len(code), data)), u(0), u(0)) == 0
DENIED
try:
    grade = build_grader(CodeGrader(timeout_s=10))
except GraderSetupError as error:
    sys.exit(f"unbuildable: {error}")
print(*grade("print(sum(map(int, input().split())))", sys.argv[1])[:3])
print(*grade("open('/etc/passwd')", sys.argv[1])[:2])
"""


def run_confined(denied: str) -> subprocess.CompletedProcess[str]:
    script = textwrap.dedent(CONFINED).replace("DENIED", denied)
    return subprocess.run([sys.executable, "-c", script, gold()], capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls of x86-64")
def test_no_privilege_is_needed() -> None:
    """No user namespaces, no change of identity, no Landlock: as in a container of Kubernetes on an old kernel."""
    done = run_confined("for number in (272, 444, 446, 116, 117, 119): deny(number)")
    assert done.stdout.splitlines() == ["True 1.0 passed", "False 0.0"], done.stderr


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls of x86-64")
def test_without_its_filter_the_grader_does_not_start() -> None:
    done = run_confined("deny(157, 22)")
    assert done.returncode == 1
    assert "unbuildable: `code` cannot shut programs in on this machine" in done.stderr
    assert "seccomp" in done.stderr
