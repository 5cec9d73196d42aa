"""What the machine of a run service has, and what is taken of it."""

import os
import sys
from collections.abc import Collection, Iterable
from dataclasses import replace
from functools import reduce
from operator import add

from dapo.host.memory import total_bytes
from dapo.records.identity import RunIdentity
from dapo.spec.problem import Problem
from dapo.spec.run import RunSpec
from dapo.spec.workloads import plan_workloads
from dapo.v1 import run_pb2 as pb
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.queue.needs import misfits, needs_of
from services.orchestrator.queue.rule import Amounts, Inventory, Verdict, Waiting, lacking


class Machine:
    """Implements Capacity: the machine of the service.

    GPUs are those that it may lend, less those that other processes of the machine hold. Memory is that of the machine,
    or of its container; cores are counted only where their number is given: processes share them, and are slower then.
    """

    def __init__(
        self, devices: DeviceAllocator, *, runs: int | None = None, cores: int | None = None, memory: int | None = None
    ) -> None:
        """`runs`: at a time. `memory`: bytes, where it is to be less than there is."""
        self._devices = devices
        self.has = Inventory(devices.total, cores, total_bytes() if memory is None else memory, runs)

    def needs(self, spec: RunSpec) -> Amounts:
        return needs_of(spec, self._devices.total)

    def misfits(self, spec: RunSpec) -> list[Problem]:
        """Why a run could never start here."""
        return list(misfits(spec, self._devices.total))

    def lacks(self, identity: RunIdentity) -> str:
        """Why a run does not go on here by itself that has been counted elsewhere; "": nothing is against it."""
        if not identity.on_gpus or self.has.gpus:
            return ""
        return "the run was counted with GPUs, and this machine has none: stop and resume it here to go on without"

    def taken(self, under_way: Iterable[RunSpec]) -> Amounts:
        """By these runs, and of GPUs by whoever has them."""
        runs = reduce(add, map(self.needs, under_way), Amounts())
        return Amounts(self._devices.total - self._devices.free(), runs.cores, runs.memory)

    def room(self, run_id: str, now: RunSpec, wanted: RunSpec, under_way: Iterable[RunSpec]) -> str:
        """Why a run that goes on cannot become what is wanted, beside the others under way; "": it can. Unlike one that
        starts it does not make do with fewer GPUs."""
        before, after = needs_of(now, sys.maxsize), needs_of(wanted, sys.maxsize)
        if not self.has.gpus:
            before, after = replace(before, gpus=0), replace(after, gpus=0)
        elif after.gpus > self.has.gpus:
            return lacking(Amounts(gpus=after.gpus), self.has, Amounts())
        return lacking(after - before, self.has, self.taken(under_way))

    def reserve(self, run_id: str, spec: RunSpec) -> None:
        """Its GPUs are the run's from now on, until its workers have ended or it is `release`d. Raises LaunchError."""
        self._devices.assign(run_id, plan_workloads(spec))

    def release(self, run_id: str) -> None:
        self._devices.release(run_id)

    def view(self, under_way: Collection[RunSpec], queue: Iterable[tuple[Waiting, Verdict]]) -> pb.Machine:
        """What there is and what is free, beside those that wait. Without a number of cores they are the machine's."""
        taken, has = self.taken(under_way), self.has
        cores = len(os.sched_getaffinity(0)) if has.cores is None else has.cores
        return pb.Machine(
            gpus=_share(has.gpus, taken.gpus),
            cores=_share(cores, taken.cores),
            memory=_share(has.memory or 0, taken.memory),
            runs=pb.RunsUnderWay(most=has.runs, under_way=len(under_way)),
            queue=[
                pb.QueuedRun(run_id=one.run_id, position=found.position, priority=one.priority, reason=found.reason)
                for one, found in queue
            ],
        )


def _share(total: int, taken: int) -> pb.Share:
    """More may be taken than there is."""
    return pb.Share(total=total, free=max(0, total - taken))
