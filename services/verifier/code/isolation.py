"""Walls around the template beside the filter, each put up where the kernel and the container allow it."""

import ctypes
import os
import struct
from contextlib import suppress

_NOBODY = 65534
_NEW_NAMESPACES = 0x10000000 | 0x40000000 | 0x08000000 | 0x04000000
"""CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS."""
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Rights over files that an ABI knows of, as the number of bits."""
_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


def put_up() -> None:
    """Files cannot be opened any more afterwards where the last one stands."""
    for wall in (_become_nobody, _leave_namespaces, _leave_file_system):
        with suppress(OSError):
            wall()


def _become_nobody() -> None:
    """Of use to root only, which alone may."""
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _leave_namespaces() -> None:
    _check(_libc.unshare(_NEW_NAMESPACES))


def _leave_file_system() -> None:
    """Landlock with no rule: every right that it knows of is gone, also over TCP ports, and signals stay inside."""
    abi = _check(_libc.syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), 1))
    bits = max(count for since, count in _LANDLOCK_FILE_RIGHTS.items() if since <= abi)
    rights = [(1 << bits) - 1]
    if abi >= 4:
        rights.append(0b11)
    if abi >= 6:
        rights.append(0b11)
    attributes = struct.pack(f"={len(rights)}Q", *rights)
    ruleset = _check(_libc.syscall(_LANDLOCK_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0))
    try:
        _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, ctypes.c_ulong(1), *[ctypes.c_ulong(0)] * 3))
        _check(_libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
