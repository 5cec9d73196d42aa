"""A seccomp filter that allows memory, the clock, open files and exit only (Linux on x86-64 and ARM64).

Classic BPF over `struct seccomp_data`, see Documentation/userspace-api/seccomp_filter.rst in the kernel's sources.
Every other system call fails with EPERM, which Python raises as PermissionError.
"""

import ctypes
import errno
import os
import platform
import struct
from typing import NamedTuple

_LOAD, _EQUAL, _GREATER_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, …|BPF_JGE, …|BPF_JSET, BPF_RET|BPF_K."""
_KILL, _FAIL, _ALLOW = 0x80000000, 0x00050000, 0x7FFF0000
"""SECCOMP_RET_KILL_PROCESS, SECCOMP_RET_ERRNO, SECCOMP_RET_ALLOW."""
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
"""Offsets in `struct seccomp_data`."""
_PROT_EXEC = 4
_AT_EMPTY_PATH = 0x1000
_X32 = 0x40000000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _MODE_FILTER = 38, 22, 2


class _SystemCalls(NamedTuple):
    """System calls of an architecture, by number."""

    architecture: int
    """AUDIT_ARCH_*."""
    plain: tuple[int, ...]
    executable: tuple[int, ...]
    """mmap, mprotect: allowed without PROT_EXEC."""
    stat: int
    """newfstatat: allowed with AT_EMPTY_PATH, that is of an open file."""
    clone3: int
    """Fails with ENOSYS, so that the C library falls back to clone."""


_CALLS = {
    "x86_64": _SystemCalls(
        architecture=0xC000003E,
        # read write close fstat lseek munmap brk rt_sigaction rt_sigprocmask rt_sigreturn pread64 pwrite64 readv writev
        # mremap madvise nanosleep getpid exit gettimeofday getrusage times getuid getgid geteuid getegid getppid
        # sigaltstack gettid time futex sched_getaffinity clock_gettime clock_getres clock_nanosleep exit_group
        # getrandom
        plain=(
            0, 1, 3, 5, 8, 11, 12, 13, 14, 15, 17, 18, 19, 20, 25, 28, 35, 39, 60, 96, 98, 100, 102, 104, 107, 108, 110,
            131, 186, 201, 202, 204, 228, 229, 230, 231, 318,
        ),
        executable=(9, 10),
        stat=262,
        clone3=435,
    ),
    "aarch64": _SystemCalls(
        architecture=0xC00000B7,
        plain=(
            63, 64, 57, 80, 62, 215, 214, 134, 135, 139, 67, 68, 65, 66, 216, 233, 101, 172, 93, 169, 165, 153, 174,
            176, 175, 177, 173, 132, 178, 98, 123, 113, 114, 115, 94, 278,
        ),
        executable=(222, 226),
        stat=79,
        clone3=435,
    ),
}  # fmt: skip


class _SockFprog(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def build_filter(machine: str) -> bytes:
    """The filter's instructions for a machine, named as by `platform.machine`. Raises KeyError for an unknown one."""
    calls = _CALLS[machine]
    code = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, calls.architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_GREATER_EQUAL, 0, 1, _X32),
        (_RETURN, 0, 0, _KILL),
    ]
    for number in calls.plain:
        code += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ALLOW)]
    code += [(_EQUAL, 0, 1, calls.clone3), (_RETURN, 0, 0, _FAIL | errno.ENOSYS)]
    for number in calls.executable:
        code += [
            (_EQUAL, 0, 4, number),
            (_LOAD, 0, 0, _ARGUMENTS + 8 * 2),
            (_ANY_BIT, 0, 1, _PROT_EXEC),
            (_RETURN, 0, 0, _FAIL | errno.EPERM),
            (_RETURN, 0, 0, _ALLOW),
        ]
    code += [
        (_EQUAL, 0, 3, calls.stat),
        (_LOAD, 0, 0, _ARGUMENTS + 8 * 3),
        (_EQUAL, 0, 1, _AT_EMPTY_PATH),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _FAIL | errno.EPERM),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def load_filter() -> "SeccompFilter":
    """The filter for this machine. Raises OSError if there is none."""
    machine = platform.machine()
    if platform.system() != "Linux" or machine not in _CALLS:
        raise OSError(errno.ENOSYS, f"no seccomp filter for {platform.system()} on {machine}")
    return SeccompFilter(build_filter(machine))


class SeccompFilter:
    """A filter that can be installed on this process."""

    def __init__(self, instructions: bytes) -> None:
        self._instructions = instructions  # the pointer below does not keep them
        self._program = _SockFprog(len(instructions) // 8, instructions)
        self._prctl = ctypes.CDLL(None, use_errno=True).prctl

    def install(self) -> None:
        """Install it, irrevocably and across exec. Raises OSError."""
        nothing = ctypes.c_ulong(0)
        for arguments in (
            (_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), nothing, nothing, nothing),
            (_PR_SET_SECCOMP, ctypes.c_ulong(_MODE_FILTER), ctypes.byref(self._program), nothing, nothing),
        ):
            if self._prctl(*arguments) != 0:
                number = ctypes.get_errno()
                raise OSError(number, f"seccomp: {os.strerror(number)}")
