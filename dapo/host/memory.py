"""Memory of this machine, or of the cgroup (container, batch job) that this process runs in, whichever has less; and
of this process."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PROC = Path("/proc")
_CGROUPS = Path("/sys/fs/cgroup")


class _Names(NamedTuple):
    limit: str
    used: str
    cached: str
    """In memory.stat: of what is used, files that are only cached."""


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Names("memory.max", "memory.current", "inactive_file")


def total_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([machine, *(limit for _, _, limit in _limits(proc, cgroups))])


def free_bytes(proc: Path = _PROC, cgroups: Path = _CGROUPS) -> int:
    """What can still be taken without swapping; files that are only cached count as free."""
    found = [1024 * _field(proc / "meminfo", "MemAvailable:")]
    for folder, names, limit in _limits(proc, cgroups):
        cached = _field(folder / "memory.stat", names.cached)
        found.append(limit - int((folder / names.used).read_text()) + cached)
    return max(0, min(found))


def peak_bytes(proc: Path = _PROC) -> int:
    """The most memory that this process has held. `ru_maxrss` of getrusage begins with what its parent held."""
    return 1024 * _field(proc / "self" / "status", "VmHWM:")


def _limits(proc: Path, cgroups: Path) -> Iterator[tuple[Path, _Names, int]]:
    """The folders of this process's cgroup and of those around it that have a limit, as far as they can be seen."""
    for line in (proc / "self" / "cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (cgroups / "memory", _V1) if controllers else (cgroups, _V2)
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            limit = folder / names.limit
            if folder.is_relative_to(root) and limit.is_file() and (text := limit.read_text().strip()).isdigit():
                yield folder, names, int(text)


def _field(path: Path, name: str) -> int:
    """The number behind a name in a file of such lines; 0 where it is not there."""
    lines = (line.split() for line in path.read_text().splitlines())
    return next((int(words[1]) for words in lines if words[:1] == [name]), 0)
