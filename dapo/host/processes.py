"""Starts processes, ties them to their parents and ends whole process groups. Linux only where it says so."""

import asyncio
import ctypes
import os
import signal
import sys
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from dapo.host.proxies import direct_to_loopback

_PARENT_VARIABLE = "DAPO_PARENT_PID"
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.05


def python_command(module: str, *arguments: str) -> list[str]:
    """The command line of `python -m module arguments…` in this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def child_environment(variables: Mapping[str, str] | None = None, *, without: Collection[str] = ()) -> dict[str, str]:
    """The environment of a child of this process: this process's own but for the names in `without`, `variables`, and
    this process's pid, from which `die_with_parent` tells that the parent is gone. Where there are proxies, NO_PROXY
    names loopback too.

    For children only: a program that this process is replaced by would take itself for an orphan.
    """
    inherited = {name: value for name, value in os.environ.items() if name not in without}
    wanted = {**inherited, **(variables or {})}
    return {**wanted, **direct_to_loopback(wanted), _PARENT_VARIABLE: str(os.getpid())}


def die_with_parent(signal_number: int = signal.SIGTERM) -> None:
    """Have the kernel send this process `signal_number` when the thread that started it ends (Linux; else nothing).

    A child that was started with `child_environment`, and whose parent was gone before this call, ends at once. Raises
    OSError where the kernel refuses.
    """
    if not sys.platform.startswith("linux"):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    expected = os.environ.pop(_PARENT_VARIABLE, "")
    if expected and os.getppid() != int(expected):
        os.kill(os.getpid(), signal_number)


def describe_exit(code: int) -> str:
    """`exited with code 3`, or `was ended by signal 9` of a code that is minus the signal."""
    return f"exited with code {code}" if code >= 0 else f"was ended by signal {-code}"


class ProcessEntry(NamedTuple):
    """One line of the process table; (pid, started) is unique while the machine is up."""

    pid: int
    parent: int
    session: int
    started: int
    zombie: bool


def read_process(pid: int) -> ProcessEntry | None:
    """The process table's entry of `pid`, or None when there is none (Linux's /proc)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return ProcessEntry(pid, int(fields[1]), int(fields[3]), int(fields[19]), fields[0] in "ZX")


def family(roots: Iterable[int]) -> list[ProcessEntry]:
    """Every living process that leads, descends from, or shares a session with one of the session leaders `roots`."""
    wanted = set(roots)
    table = [entry for name in os.listdir("/proc") if name.isdigit() and (entry := read_process(int(name)))]
    members = {entry.pid for entry in table if entry.pid in wanted or entry.session in wanted}
    grown = True
    while grown:
        children = {entry.pid for entry in table if entry.parent in members} - members
        members |= children
        grown = bool(children)
    return [entry for entry in table if entry.pid in members and not entry.zombie]


def is_alive(entry: ProcessEntry) -> bool:
    """Whether that very process (not a later one with its pid) still runs."""
    now = read_process(entry.pid)
    return now is not None and now.started == entry.started and not now.zombie


def _signal(entries: Iterable[ProcessEntry], number: int) -> None:
    for entry in entries:
        if is_alive(entry):
            try:
                os.kill(entry.pid, number)
            except ProcessLookupError:
                continue


async def wait_gone(entries: list[ProcessEntry], timeout_s: float) -> list[ProcessEntry]:
    """The entries that still live after at most `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while (left := [entry for entry in entries if is_alive(entry)]) and time.monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)  # Grandchildren cannot be waited for, only looked at.
    return left


def _unless_reused(leaders: Mapping[int, int]) -> list[int]:
    """Leaders whose pid still stands for them: the kernel gives a pid out again only once its session is empty."""
    now = {pid: read_process(pid) for pid in leaders}
    return [pid for pid, started in leaders.items() if (entry := now[pid]) is None or entry.started == started]


async def end_sessions(leaders: Mapping[int, int], *, term_s: float = 6.0, kill_s: float = 4.0) -> list[int]:
    """End the sessions of `leaders` (pid -> start time as in ProcessEntry) with all their descendants.

    The leaders get TERM and `term_s` to end their own children in order; what then lives, anywhere in the families,
    gets KILL. Returns the pids that outlived the kill by `kill_s` (normally none).
    """
    roots = _unless_reused(leaders)
    known = {(entry.pid, entry.started): entry for entry in family(roots)}
    chiefs = [entry for entry in known.values() if entry.pid in leaders]
    _signal(chiefs, signal.SIGTERM)
    await wait_gone(chiefs, term_s)
    known |= {(entry.pid, entry.started): entry for entry in family(_unless_reused(leaders))}
    left = [entry for entry in known.values() if is_alive(entry)]
    _signal(left, signal.SIGKILL)
    return [entry.pid for entry in await wait_gone(left, kill_s)]
