"""Which of the runs that wait start now, and why the others do not. Pure: what there is in, a verdict for each out."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from dapo.spec.budget import format_bytes

PATIENCE_S = 600.0
"""So long a run that waits for room lets those behind it pass that need less; then none of them starts before it that
could take what it waits for."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """What runs take of a machine."""

    gpus: int = 0
    cores: int = 0
    memory: int = 0
    """Bytes."""

    def __add__(self, other: "Amounts") -> "Amounts":
        return Amounts(self.gpus + other.gpus, self.cores + other.cores, self.memory + other.memory)

    def __sub__(self, other: "Amounts") -> "Amounts":
        return Amounts(self.gpus - other.gpus, self.cores - other.cores, self.memory - other.memory)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a machine has; None: no measure. GPUs are lent, so they are a hard one; what processes share is not."""

    gpus: int = 0
    cores: int | None = None
    memory: int | None = None
    """Bytes."""
    runs: int | None = None
    """At a time."""


class Waiting(NamedTuple):
    """A run that waits for room."""

    run_id: str
    needs: Amounts
    priority: int
    """Higher ones first."""
    since: float
    """When it began to wait, in seconds since 1970."""
    under_way: bool = False
    """It was, until its run service ended: it comes before all that have not been."""
    obstacle: str = ""
    """What keeps it from starting whatever room there is; others do not wait for it."""


class Verdict(NamedTuple):
    run_id: str
    position: int
    """In the queue, from 1."""
    starts: bool
    reason: str
    """Why it waits; of one that starts, what there is less of than it needs, or ""."""


def judge(waiting: Iterable[Waiting], has: Inventory, taken: Amounts, runs: int, now: float) -> list[Verdict]:
    """In the order of the queue: priority, then time. `taken`: of `has`, by `runs` under way and by other processes.

    A run that fits starts, also before one that does not, until that has waited for PATIENCE_S; never before one that
    was under way. Where such a one lacks GPUs alone, those that need none pass it: GPUs that come free stay so for it,
    and as soon as it lacks something else instead, nobody passes. One that has the machine to itself starts whatever it
    needs but GPUs: cores and memory are estimates, and it would wait for ever.
    """
    verdicts: list[Verdict] = []
    of_all, of_gpus = "", ""
    for position, one in enumerate(sorted(waiting, key=_place), 1):
        missing_gpus, others = _missing_gpus(one.needs, has, taken), _missing(one.needs, has, taken, runs)
        reason = "; ".join(filter(None, (missing_gpus, *others)))
        blocker = of_all or (of_gpus if one.needs.gpus else "")
        starts = not (one.obstacle or blocker or missing_gpus) and (not others or runs == 0)
        if one.obstacle:
            reason = one.obstacle
        elif starts:
            taken, runs = taken + one.needs, runs + 1
        elif blocker:
            reason = reason or f"run {blocker} comes first: it was under way, or waits for {PATIENCE_S / 60:g} minutes"
        elif (one.under_way or now - one.since >= PATIENCE_S) and one.needs.gpus <= has.gpus:
            of_gpus = of_gpus or one.run_id
            of_all = one.run_id if others and runs else ""
        verdicts.append(Verdict(one.run_id, position, starts, reason))
    return verdicts


def lacking(needs: Amounts, has: Inventory, taken: Amounts) -> str:
    """Why a run that goes on cannot have so much more; "": it can. Cores and memory are estimates: where runs go on
    that take more than there is by them, they say nothing."""
    cores = None if has.cores is None or taken.cores > has.cores else has.cores
    memory = None if has.memory is None or taken.memory > has.memory else has.memory
    shared = replace(has, runs=None, cores=cores, memory=memory)
    return "; ".join(filter(None, (_missing_gpus(needs, has, taken), *_missing(needs, shared, taken, 0))))


def _place(one: Waiting) -> tuple[bool, int, float, str]:
    return not one.under_way, -one.priority, one.since, one.run_id


def _missing_gpus(needs: Amounts, has: Inventory, taken: Amounts) -> str:
    if not needs.gpus or needs.gpus <= has.gpus - taken.gpus:
        return ""
    gpus = f"{needs.gpus} GPU{'s' * (needs.gpus > 1)}"
    if needs.gpus > has.gpus:
        return f"needs {gpus}, and this machine has {has.gpus}"
    return f"needs {gpus}, {has.gpus - taken.gpus} free of {has.gpus}"


def _missing(needs: Amounts, has: Inventory, taken: Amounts, runs: int) -> list[str]:
    found = []
    if has.runs is not None and runs >= has.runs:
        found.append(f"{runs} of {has.runs} run{'s' * (has.runs > 1)} under way (--max-runs)")
    if has.cores is not None and needs.cores > has.cores - taken.cores:
        cores = f"{needs.cores} core{'s' * (needs.cores > 1)}"
        found.append(f"needs {cores}, {max(0, has.cores - taken.cores)} free of {has.cores}")
    if has.memory is not None and needs.memory > has.memory - taken.memory:
        free = format_bytes(max(0, has.memory - taken.memory))
        found.append(f"needs {format_bytes(needs.memory)} of memory, {free} free of {format_bytes(has.memory)}")
    return found
