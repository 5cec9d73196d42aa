"""`code` on hostile programs: nothing outside is read, written, reached or signalled."""

import asyncio
import os
import socket
import tempfile
import time
from pathlib import Path

import pytest

from dapo.spec.tree.graders import CodeGrader
from services.verifier.graders import GradeFunction, build_grader
from services.verifier.grading.pool import GradingPool
from services.verifier.request import GradingRequest
from tests.support.verifier.code import ASSERTS, RIGHT, descendants, fenced, gold

TIMEOUT_S = 2.0
MARGIN_S = 3.0


@pytest.fixture(scope="module")
def grade() -> GradeFunction:
    return build_grader(CodeGrader(timeout_s=TIMEOUT_S, memory_mib=256))


def refused(expression: str) -> str:
    """A program that prints the right sum only where `expression` is refused."""
    return f"""
import ctypes, os, sys
libc = ctypes.CDLL.__new__(ctypes.CDLL)
try:
    {expression}
except (OSError, RuntimeError, ImportError, ValueError):
    print(sum(map(int, input().split())))
"""


@pytest.mark.parametrize(
    "expression",
    [
        "open('/etc/passwd')",
        "open('/proc/self/environ')",
        "open(f'/proc/{os.getppid()}/environ')",
        "open(f'/proc/{os.getppid()}/mem', 'rb')",
        "open('/proc/self/fd/1', 'w')",
        "open('/dev/shm/canary', 'w')",
        "open('canary', 'w')",
        "os.listdir('.')",
        "os.stat('/etc')",
        "os.readlink('/proc/self/exe')",
        "os.symlink('/etc/passwd', 'canary')",
        "os.link('/etc/passwd', 'canary')",
        "os.mkdir('canary')",
        "os.unlink('/etc/passwd')",
        "os.chmod('/etc/passwd', 0)",
        "os.chdir('/')",
        "os.chroot('/')",
        "os.getcwd()",
        "os.memfd_create('canary')",
        "os.pipe()",
        "os.dup(1)",
        "os.fork()",
        "os.forkpty()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "if os.system('true'): raise OSError",
        "os.execv('/bin/true', ['true'])",
        "__import__('subprocess').run(['true'])",
        "__import__('socket').socket()",
        "__import__('socket').socketpair()",
        "__import__('socket').create_connection(('127.0.0.1', 1))",
        "__import__('socket').getaddrinfo('localhost', 80)",
        "__import__('urllib.request').request.urlopen('http://127.0.0.1:1')",
        "__import__('_thread').start_new_thread(print, ())",
        "__import__('multiprocessing').Process(target=print).start()",
        "os.kill(os.getppid(), 9)",
        "os.kill(os.getpid(), 0)",
        "os.kill(-1, 0)",
        "os.killpg(0, 0)",
        "os.nice(1)",
        "os.setuid(0)",
        "os.setsid()",
        "os.sched_setaffinity(0, {0})",
        "os.kill(1, 9)",
        "__import__('resource').setrlimit(__import__('resource').RLIMIT_AS, (-1, -1))",
        "__import__('mmap').mmap(-1, 4096, prot=7)",
        "__import__('fcntl').fcntl(0, 1)",
        "__import__('select').epoll()",
        "__import__('asyncio').run(__import__('asyncio').sleep(0))",
        "__import__('tempfile').TemporaryFile()",
        "__import__('tempfile').mkdtemp()",
        "__import__('sqlite3').connect('canary')",
    ],
)
def test_what_reaches_outside_is_refused(grade: GradeFunction, expression: str) -> None:
    verdict = grade(fenced(refused(expression)), gold())
    assert verdict.correct, verdict
    assert not Path("canary").exists()
    assert not Path("/dev/shm/canary").exists()


SYSTEM_CALLS = """
import ctypes
libc = ctypes.PyDLL(None)
libc.syscall.restype = ctypes.c_long
path = ctypes.c_char_p(b"/etc/passwd")
zero, big = ctypes.c_long(0), ctypes.create_string_buffer(4096)
# open openat openat2 creat socket connect fork vfork clone execve kill tkill tgkill ptrace process_vm_readv mount
# unshare setns pidfd_open io_uring_setup bpf memfd_create userfaultfd perf_event_open keyctl prctl seccomp shmget
# msgget semget
# personality setrlimit prlimit64 pidfd_getfd landlock_create_ruleset fanotify_init inotify_init name_to_handle_at
calls = (2, 257, 437, 85, 41, 42, 57, 58, 56, 59, 62, 200, 234, 101, 310, 165, 272, 308, 434, 425, 321, 319, 323,
         298, 250, 157, 317, 29, 68, 64, 135, 160, 302, 438, 444, 300, 253, 303)
for number in calls:
    found = libc.syscall(ctypes.c_long(number), path, zero, zero, zero, zero, zero)
    assert found == -1, (number, found)
page, executable = ctypes.c_void_p(ctypes.addressof(big) & ~4095), ctypes.c_long(7)
assert libc.syscall(ctypes.c_long(10), page, ctypes.c_long(4096), executable) == -1
print(sum(map(int, input().split())))
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="numbers of system calls of x86-64")
def test_system_calls_past_python_are_refused(grade: GradeFunction) -> None:
    verdict = grade(fenced(SYSTEM_CALLS), gold())
    assert verdict.correct, verdict


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the x32 ABI of x86-64")
def test_another_abi_ends_the_program(grade: GradeFunction) -> None:
    program = "import ctypes\nctypes.PyDLL(None).syscall(ctypes.c_long(0x40000000 | 39))\n" + RIGHT
    verdict = grade(fenced(program), gold())
    assert verdict.score == 0
    assert "-31" in verdict.extracted  # SIGSYS


DEAF = """
import signal
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
"""


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("while True: pass", "took too long"),
        ("import time\ntime.sleep(1000)", "took too long"),
        ("input()\ninput()\ninput()", "EOFError"),
        (DEAF + "while True: pass", "took too long"),
        ("while True: print('x' * 1000)", "printed more than 64 KiB: raise output_kib"),
        ("import os\nwhile True: os.write(2, b'x' * 1000)", "raise output_kib"),
        (DEAF + "import os\nos.write(1, b'x' * 10**6)\nos.write(1, b'x')", "File too large"),
        ("import os\nos.ftruncate(1, 1 << 40)", "not permitted"),
        ("x = bytearray(1 << 40)", "MemoryError"),
        ("x = []\nwhile True: x.append(' ' * 10**6)", "MemoryError"),
        ("import mmap\nx = [mmap.mmap(-1, 1 << 28) for _ in range(9)]", "Error"),
        ("def f(): f()\nf()", "RecursionError"),
        ("import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f([x])\nf(0)", "0 of 2"),
        ("import sys\nsys.setrecursionlimit(10**9)\nx = []\nfor _ in range(10**6): x = [x]\nrepr(x)", "0 of 2"),
        ("9 ** 9 ** 9 ** 9", "0 of 2"),
        ("while True: int('9' * 2_000_000)", "took too long"),
        ("eval('(' * 100_000)", "0 of 2"),
        ("import re\nre.match('(a+)+$', 'a' * 60 + 'b')", "took too long"),
        ("(lambda: 0).__code__.__class__(0,0,0,0,0,0,b'd\\x7f'*9,(),(),(),'','','',0,b'',b'')", "0 of 2"),
        ("import ctypes\nctypes.string_at(0)", "-11"),
        ("import os\nos.abort()", "0 of 2"),
        ("import os\nos._exit(0)", "something else"),
        ("import sys\nsys.exit(0)", "something else"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("import os\nfor n in range(100):\n    try: os.close(n)\n    except OSError: pass\nprint(3)", "0 of 2"),
        ("def", "SyntaxError"),
        ("\x00", "0 of 2"),
        ("x = '\ud800'", "0 of 2"),
    ],
)  # fmt: skip
def test_a_program_that_goes_wrong_is_wrong(grade: GradeFunction, program: str, told: str) -> None:
    began = time.monotonic()
    verdict = grade(fenced(program), gold())
    assert time.monotonic() - began < TIMEOUT_S + MARGIN_S
    assert (verdict.correct, verdict.score, verdict.failed) == (False, 0, False)
    assert told in verdict.extracted, verdict
    assert grade(fenced(RIGHT), gold()).correct, "the next one is graded as ever"


def test_nothing_listens_in(grade: GradeFunction) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}))"
        assert grade(fenced(program), gold()).score == 0
        with pytest.raises(TimeoutError):
            server.accept()


def test_the_environment_of_the_verifier_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_KEY_OF_THE_JUDGE", "hunter2")
    grade = build_grader(CodeGrader(timeout_s=TIMEOUT_S))
    program = (
        """
import ctypes, os
assert not os.environ, os.environ
environ = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.PyDLL(None), "environ")
left = [environ[n] for n in range(20) if environ and environ[n]] if environ and environ[0] else []
assert not any(b"hunter2" in one for one in left)
"""
        + RIGHT
    )
    verdict = grade(fenced(program), gold())
    assert verdict.correct, verdict


HOSTILE = [
    "import os\nwhile True: os.fork()",
    "import threading\nwhile True: threading.Thread(target=input).start()",
    "import _thread\nwhile True: _thread.start_new_thread(input, ())",
    "import subprocess\nsubprocess.Popen(['sleep', '1000'])",
    "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "import os, signal\nos.kill(-1, signal.SIGKILL)",
    "while True: print('x' * 10**4)",
    "x = ' ' * 10**11",
    "x = []\nwhile True: x.append(bytearray(10**7))",
    "open('/tmp/dapo-hostile', 'w').write('x')",
    "import tempfile\ntempfile.NamedTemporaryFile(prefix='dapo-hostile', delete=False)",
    "import socket\nsocket.create_server(('', 0))",
    "import sys\nsys.setrecursionlimit(10**9)\ndef f(x): return f([x])\nf(0)",
    "import os\nos._exit(0)",
    "import ctypes\nctypes.string_at(0)",
    "import os\nfor n in range(300):\n    try: os.close(n)\n    except OSError: pass",
    "import sys\nsys.exit(0)",
    "def area(a, b): return open('/etc/passwd').read()",
    "raise SystemError",
    "\x00",
]  # fmt: skip
HANGING = ["while True: pass", "import time\ntime.sleep(99)", "def area(a, b):\n    while True: pass"]


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_the_pool_is_as_before_after_hostile_programs(count: int) -> None:
    options = CodeGrader(timeout_s=0.3, memory_mib=128, output_kib=64)
    hanging = HANGING * (count // 100)
    programs = (HOSTILE * count)[: count - len(hanging)] + hanging
    golds = (gold(), gold(asserts=ASSERTS))
    requests = [GradingRequest("code", fenced(program), golds[index % 2]) for index, program in enumerate(programs)]
    assert len(requests) == count

    others = descendants(os.getpid())

    def ours() -> list[str]:
        return sorted(command for pid, command in descendants(os.getpid()).items() if pid not in others)

    async def main() -> None:
        pool = GradingPool({"code": options, "slow": options.model_copy(update={"timeout_s": 20.0})}, timeout_s=5.0)
        running = asyncio.create_task(pool.run())
        honest = [GradingRequest("slow", fenced(RIGHT), gold())] * 4
        assert all(verdict.correct for verdict in await pool.grade(honest))
        verdicts = await pool.grade(requests)
        assert not any(verdict.correct for verdict in verdicts)
        assert {verdict.reason for verdict in verdicts} == {"below_threshold"}
        assert all(verdict.correct for verdict in await pool.grade(honest))
        # Each of two grading processes has a template for each of two graders, and nothing else is alive.
        assert len([command for command in ours() if "services.verifier.grading.child_main" in command]) == 2
        assert len(ours()) == 6, ours()
        running.cancel()
        await asyncio.wait([running])

    asyncio.run(main())
    deadline = time.monotonic() + 5
    while ours():
        assert time.monotonic() < deadline, ours()
        time.sleep(0.05)
    for folder in (tempfile.gettempdir(), "/tmp", "/dev/shm", "."):
        assert not [*Path(folder).glob("dapo-hostile*")]
