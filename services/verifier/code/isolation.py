"""Isolation of the template beside its seccomp filter: no privileges, namespaces of its own, Landlock.

Each layer is applied where the kernel and the container allow it, and left out where they do not: the seccomp filter
alone already refuses files, sockets and processes.
"""

import ctypes
import os
import struct
from contextlib import suppress

_NOBODY = 65534
_NEW_NAMESPACES = 0x10000000 | 0x40000000 | 0x08000000 | 0x04000000
"""CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS."""
_LANDLOCK_CREATE_RULESET, _LANDLOCK_RESTRICT_SELF = 444, 446
_LANDLOCK_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""From this ABI version on, so many rights over files, one bit each."""
_PR_SET_NO_NEW_PRIVS = 38
_libc = ctypes.CDLL(None, use_errno=True)


def isolate() -> None:
    """Apply every layer that is allowed here, for good. Under Landlock this process can open no file afterwards."""
    for layer in (_drop_privileges, _unshare_namespaces, _restrict_with_landlock):
        with suppress(OSError):
            layer()


def _drop_privileges() -> None:
    """Root becomes nobody. Raises OSError for any other user, who may not change its identity."""
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)


def _unshare_namespaces() -> None:
    """A new user, network, IPC and host-name namespace each."""
    _check(_libc.unshare(_NEW_NAMESPACES))


def _restrict_with_landlock() -> None:
    """A ruleset without a rule denies every right that this kernel's Landlock handles.

    These are rights over files; from ABI 4 on to bind and connect TCP ports; from ABI 6 on to send signals and connect
    to abstract Unix sockets outside.
    """
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
