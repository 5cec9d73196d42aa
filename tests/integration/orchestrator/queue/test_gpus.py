"""Which GPUs are free when workers leave a run that goes on, and when a run has ended, over real processes."""

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from dapo.host.processes import read_process
from dapo.spec.workloads import Resources, Workload
from services.orchestrator.launch import local
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.launch.launcher import LaunchError, RunTarget
from services.orchestrator.launch.local import LocalLauncher
from tests.integration.orchestrator.test_processes import STUBBORN
from tests.support.waiting import eventually

GPUS = ("0", "1", "2", "3")


def test_a_run_that_shrinks_frees_the_gpus_of_those_that_left_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "scripted.py").write_text("import time\ntime.sleep(600)")
    target = RunTarget("a", "redis://x", None, tmp_path / "a")

    def generators(count: int) -> list[Workload]:
        environment = {"PYTHONPATH": str(tmp_path)}
        return [Workload("generator", "generator", count, "scripted", environment, Resources("auto", 1))]

    async def scenario() -> list[int]:
        ours, others = (DeviceAllocator(GPUS, tmp_path / "locks") for _ in range(2))
        launcher, free = LocalLauncher(ours), []
        try:
            for count in (3, 1, 2):
                await launcher.apply(target, generators(count))
                free.append(others.free())
            lent = others.assign("b", generators(2))
            # The one that stayed has kept its own.
            assert {gpu for gpus in lent.values() for gpu in gpus} == {"2", "3"}
            return free
        finally:
            await launcher.stop("a")

    assert asyncio.run(scenario()) == [1, 3, 2]


def test_gpus_whose_users_outlive_the_kill_are_free_once_these_are_gone_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids = tmp_path / "pids"
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    environment = {"PYTHONPATH": str(tmp_path), "PIDS": str(pids)}
    generator = Workload("generator", "generator", 1, "stubborn", environment, Resources("auto", 1))

    async def scenario() -> list[object]:
        ours, others = (DeviceAllocator(GPUS[:2], tmp_path / "locks") for _ in range(2))
        launcher = LocalLauncher(ours)
        await launcher.apply(RunTarget("a", "redis://x", None, tmp_path / "a"), [generator])
        await eventually(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        worker, engine = map(int, pids.read_text().split())

        async def outlives(leaders: Mapping[int, int]) -> list[int]:
            """As the kernel has it with a process in a call that nothing interrupts."""
            os.kill(worker, 9)
            await eventually(lambda: (entry := read_process(worker)) is None or entry.zombie)
            return [engine]

        monkeypatch.setattr(local, "end_sessions", outlives)
        with pytest.raises(LaunchError, match="outlived SIGKILL"):
            await launcher.stop("a")
        # A run that goes on meanwhile does not get what the process still uses.
        found = [ours.free(), others.free(), ours.assign("a", [generator])]
        os.kill(engine, 9)
        await eventually(lambda: others.free() == 1)
        return found

    assert asyncio.run(scenario()) == [1, 1, {"generator-0": ("1",)}]
