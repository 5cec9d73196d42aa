"""The GPUs of this machine, each lent to one run at a time."""

import os
from collections.abc import Collection, Sequence
from itertools import islice
from pathlib import Path

from dapo.host.devices import LOCKS, device_identity, driver_gpus, lock_device
from dapo.spec.workloads import Workload
from services.orchestrator.launch.launcher import LaunchError


class DeviceAllocator:
    """Lends GPUs to runs. Invariant: no GPU is with two runs, of this process or of any other on the machine.

    A GPU is held by an advisory lock on a file. The workers that use it hold the lock, too (`locks`), so that it stays
    locked after a run service was killed, until they are gone; then the kernel drops it. A crash leaves nothing behind.
    """

    def __init__(self, devices: Sequence[str], locks: Path = LOCKS) -> None:
        """`devices` as in CUDA_VISIBLE_DEVICES, under whose names workers get them; see `dapo.host.devices`."""
        self._devices = tuple(devices)
        gpus = driver_gpus()
        self._identities = {device: device_identity(device, gpus) for device in self._devices}
        self._folder = locks
        self._held: dict[str, dict[str, int]] = {}
        self._owned: dict[str, dict[str, tuple[str, ...]]] = {}
        """Run → worker id → the GPUs that it has for itself."""

    def assign(self, run_id: str, workloads: Sequence[Workload]) -> dict[str, tuple[str, ...]]:
        """Worker id → GPUs of the run's workers that use some, the learner's ranks before the generators.

        Where the machine has no GPU, workers get none; one that has fewer than the run needs lends it all, and workers
        that have none of their own see all of them. A run that has GPUs keeps them, and so does each of its workers
        that stays. Raises LaunchError where other runs hold too many.
        """
        order = sorted(workloads, key=lambda workload: workload.role != "learner")
        needs = [(worker, workload.resources.gpus) for workload in order for worker in workload.worker_ids]
        needs = [(worker, count) for worker, count in needs if count]
        wanted = sum(count for _, count in needs)
        if not self._devices or not wanted:
            return {}
        lent = self._lend(run_id, min(wanted, len(self._devices)))
        before = self._owned.get(run_id, {})
        owned = {worker: before[worker] for worker, count in needs if len(before.get(worker, ())) == count}
        if len(self._devices) >= wanted:
            taken = {device for devices in owned.values() for device in devices}
            free = iter([device for device in lent if device not in taken])
            owned |= {worker: tuple(islice(free, count)) for worker, count in needs if worker not in owned}
        self._owned[run_id] = owned
        return {worker: owned.get(worker, lent) for worker, _ in needs}

    @property
    def total(self) -> int:
        """GPUs that there are to lend."""
        return len(self._devices)

    def free(self) -> int:
        """GPUs that nobody has at this moment, on the machine. Each is locked for a moment to see that."""
        held = {device for lent in self._held.values() for device in lent}
        free = 0
        for device in self._devices:
            if device not in held and (descriptor := self._lock(device)) is not None:
                os.close(descriptor)
                free += 1
        return free

    def locks(self, run_id: str, devices: Collection[str]) -> tuple[int, ...]:
        """Descriptors of the locks of these GPUs of the run, for the worker that uses them to inherit."""
        return tuple(lock for device, lock in self._held.get(run_id, {}).items() if device in devices)

    def keep(self, run_id: str, devices: Collection[str]) -> None:
        """Of the run's GPUs these alone: the others are free, once the workers that used them are gone."""
        held = self._held.get(run_id, {})
        for device in held.keys() - set(devices):
            os.close(held.pop(device))

    def release(self, run_id: str) -> None:
        """The run's GPUs are free for others; a run without any is passed over."""
        for descriptor in self.withdraw(run_id):
            os.close(descriptor)

    def withdraw(self, run_id: str) -> tuple[int, ...]:
        """The run has no GPUs any more, and nobody gets them until the caller closes these descriptors."""
        self._owned.pop(run_id, None)
        return tuple(self._held.pop(run_id, {}).values())

    def _lend(self, run_id: str, count: int) -> tuple[str, ...]:
        """All GPUs that the run has, `count` at least. Raises LaunchError, and lends none, where too few are free."""
        held = self._held.setdefault(run_id, {})
        fresh: list[str] = []
        # Twice: another service may have looked at a GPU that is free (`free`).
        for device in self._devices * 2:
            if len(held) >= count:
                break
            if device not in held and (descriptor := self._lock(device)) is not None:
                held[device] = descriptor
                fresh.append(device)
        if len(held) < count:
            free = len(held)
            for device in fresh:
                os.close(held.pop(device))
            raise LaunchError(
                f"the run needs {count} of this machine's {len(self._devices)} GPUs, and {free} are free: other runs "
                "hold the rest. Wait for them or stop them, ask for fewer replicas, or set resources.*.device to cpu"
            )
        return tuple(device for device in self._devices if device in held)

    def _lock(self, device: str) -> int | None:
        """A descriptor that holds the GPU, whatever others call it; None where somebody else does."""
        return lock_device(self._identities[device], self._folder)
