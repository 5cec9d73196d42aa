"""Agents and their launcher: workers are placed, watched, restarted and taken over, whatever dies."""

import asyncio
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dapo.bus import Bus
from dapo.bus.agents import AgentRecords
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.host.processes import read_process
from dapo.spec.workloads import Workload
from services.orchestrator.launch.attached import workers
from services.orchestrator.launch.attached.launcher import AttachedLauncher
from services.orchestrator.launch.launcher import LaunchError, RunTarget, WorkerState, WorkerStatus
from tests.support.agent.scripted import BEATING, FAILING, agents, scripted
from tests.support.waiting import eventually

RUN = "r-1"
pytestmark = pytest.mark.timeout(180)


class Stage:
    """A run that is led, and the launcher of the service that leads it."""

    def __init__(self, folder: Path, url: str, records: AgentRecords, bus: Bus) -> None:
        self.folder = folder
        self.records = records
        self.bus = bus
        self.url = url
        self.launcher = AttachedLauncher(records, folder, url)
        self.term = 0

    async def lead(self, holder: str = "service") -> RunTarget:
        """The lease is taken anew, as by a service that starts; the launcher knows nothing of the one before."""
        await self.bus.control_server.client.delete(self.bus.keys.lease)
        self.bus.control_server.term = self.bus.control_server.term._replace(role="", epoch=0)
        self.term = await self.bus.lease.take(holder, 600)
        self.launcher = AttachedLauncher(self.records, self.folder, self.url)
        return RunTarget(RUN, self.url, None, self.folder / "runs" / RUN, self.term)

    async def until(self, worker: str, check: Callable[[WorkerStatus], object], within_s: float = 30.0) -> WorkerStatus:
        async with asyncio.timeout(within_s):
            while True:
                found = [one for one in await self.launcher.observe(RUN) if one.worker_id == worker]
                if found and check(found[0]):
                    return found[0]
                await asyncio.sleep(0.1)

    async def up(self, *names: str) -> None:
        """These workers run, and have said so."""
        for name in names:
            await self.until(name, lambda one: one.state == WorkerState.RUNNING)
            await eventually(lambda name=name: any(alive(pid) for pid in self.pids(name)[-1:]))

    async def free(self, count: int) -> None:
        """So many agents have no worker."""
        async with asyncio.timeout(30):
            while True:
                if sum(one.free for one in await self.records.agents()) == count:
                    return
                await asyncio.sleep(0.1)

    async def gone(self) -> None:
        """No agent is heard."""
        async with asyncio.timeout(30):
            while True:
                if not await self.records.agents():
                    return
                await asyncio.sleep(0.1)

    def pids(self, worker: str) -> list[int]:
        """Of its processes so far, the oldest first."""
        file = self.folder / "runs" / RUN / f"{worker}.pids"
        return list(map(int, file.read_text().split())) if file.exists() else []


def alive(pid: int) -> bool:
    entry = read_process(pid)
    return entry is not None and not entry.zombie


def play(folder: Path, url: str, scenario: Callable[[Stage], Awaitable[None]]) -> None:
    async def main() -> None:
        records, bus = await AgentRecords.connect(url), await Bus.connect(url, RUN)
        stage = Stage(folder, url, records, bus)
        try:
            await scenario(stage)
        finally:
            await stage.launcher.stop(RUN)
            await bus.close()
            await records.close()

    asyncio.run(main())


def verifiers(folder: Path, replicas: int, fewest: int | None = None) -> list[Workload]:
    return [scripted(folder, "verifier", BEATING, replicas, fewest)]


def test_workers_are_placed_scaled_and_stopped(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        target = await stage.lead()
        await stage.launcher.apply(target, verifiers(tmp_path, 2))
        await stage.up("verifier-0", "verifier-1")
        await stage.launcher.apply(target, verifiers(tmp_path, 1))
        await stage.free(1)
        assert [one.worker_id for one in await stage.launcher.observe(RUN)] == ["verifier-0"]
        await stage.launcher.apply(target, verifiers(tmp_path, 2))
        await stage.up("verifier-1")
        await stage.launcher.restart(RUN, ["verifier-0"])
        await stage.up("verifier-0")
        assert [len(stage.pids(f"verifier-{at}")) for at in range(2)] == [2, 2]
        await stage.launcher.stop(RUN)
        assert not any(alive(pid) for at in range(2) for pid in stage.pids(f"verifier-{at}"))
        assert await stage.launcher.observe(RUN) == []
        await stage.free(2)

    with agents(tmp_path, valkey.url, "verifier", "verifier"):
        play(tmp_path, valkey.url, scenario)


def test_a_failure_has_its_code_and_the_end_of_its_log(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        target = await stage.lead()
        await stage.launcher.apply(target, [scripted(tmp_path, "generator", FAILING)])
        status = await stage.until("generator-0", lambda one: one.state == WorkerState.EXITED)
        assert str(status) == "generator-0 exited with code 3"
        log = await stage.launcher.logs(RUN, "generator-0")
        assert log.text.endswith("holds no config.json")
        assert (tmp_path / "runs" / RUN / "logs/generator-0.log").read_text().endswith("holds no config.json\n")
        (agent,) = running
        agent.kill()
        await stage.gone()
        # The service has the run's folder, too.
        assert (await stage.launcher.logs(RUN, "generator-0")).text == log.text

    with agents(tmp_path, valkey.url, "generator") as running:
        play(tmp_path, valkey.url, scenario)


def test_a_worker_that_fails_is_started_again_on_another_agent(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        target = await stage.lead()
        await stage.free(3)
        tried = []
        await stage.launcher.apply(target, [scripted(tmp_path, "generator", FAILING)])
        for _ in range(3):
            await stage.until("generator-0", lambda one: one.state == WorkerState.EXITED)
            tried.append((await stage.records.placements(RUN))["generator-0"].agent_id)
            await stage.launcher.restart(RUN, ["generator-0"])
        assert len(set(tried)) == 3

    with agents(tmp_path, valkey.url, "generator", "generator", "generator"):
        play(tmp_path, valkey.url, scenario)


def test_too_few_agents_are_named_in_time_and_nothing_is_left_of_the_start(
    valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "PLACE_S", 1.0)

    async def scenario(stage: Stage) -> None:
        target = await stage.lead()
        await stage.free(1)
        words = re.escape("needs 2 more verifier agents (of 1 that are there 1 is free); they were waited for 1 s.")
        with pytest.raises(LaunchError, match=words):
            await stage.launcher.apply(target, verifiers(tmp_path, 3))
        await stage.free(1)
        assert await stage.records.placements(RUN) == {}

    with agents(tmp_path, valkey.url, "verifier"):
        play(tmp_path, valkey.url, scenario)


def test_a_workload_that_can_do_with_fewer_starts_with_them(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        target = await stage.lead()
        await stage.free(2)
        await stage.launcher.apply(target, verifiers(tmp_path, 3, fewest=1))
        await stage.up("verifier-0", "verifier-1")
        assert [one.worker_id for one in await stage.launcher.observe(RUN)] == ["verifier-0", "verifier-1"]

    with agents(tmp_path, valkey.url, "verifier", "verifier"):
        play(tmp_path, valkey.url, scenario)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_the_worker_of_an_agent_that_died_or_froze_goes_to_another_and_its_process_writes_no_more(
    valkey: EmbeddedValkey, tmp_path: Path, how: signal.Signals
) -> None:
    async def scenario(stage: Stage) -> None:
        target = await stage.lead()
        with agents(tmp_path, valkey.url, "verifier") as (victim,):
            await stage.launcher.apply(target, verifiers(tmp_path, 1))
            await stage.up("verifier-0")
            began = time.monotonic()
            os.kill(victim.pid, how)
            with agents(tmp_path, valkey.url, "verifier"):
                status = await stage.until("verifier-0", lambda one: one.state == WorkerState.FAILED)
                assert time.monotonic() - began < 15
                assert (status.code, "is not heard any more" in status.reason) == (-9, True)
                await stage.free(1)
                await stage.launcher.restart(RUN, ["verifier-0"])
                await stage.up("verifier-0")
                first, second = stage.pids("verifier-0")
                # Of a frozen agent it is fenced off with its next beat; of a dead one it died with it.
                await eventually(lambda: not alive(first), 10)
                await asyncio.sleep(1)
                assert alive(second)
                if how == signal.SIGSTOP:
                    os.kill(victim.pid, signal.SIGCONT)
                await asyncio.sleep(2)
                assert alive(second)
                assert stage.pids("verifier-0") == [first, second]
                await stage.launcher.stop(RUN)

    play(tmp_path, valkey.url, scenario)


def test_an_agent_that_is_told_to_leave_says_so_and_its_worker_ends_in_order(
    valkey: EmbeddedValkey, tmp_path: Path
) -> None:
    async def scenario(stage: Stage) -> None:
        target = await stage.lead()
        with agents(tmp_path, valkey.url, "verifier") as (leaving,):
            await stage.launcher.apply(target, verifiers(tmp_path, 1))
            await stage.up("verifier-0")
            leaving.terminate()
            status = await stage.until("verifier-0", lambda one: one.state == WorkerState.FAILED, within_s=8)
            assert "was told to leave" in status.reason
            assert await asyncio.to_thread(leaving.wait, 10) == 0
            assert not alive(stage.pids("verifier-0")[0])
            assert await stage.records.agents() == []

    play(tmp_path, valkey.url, scenario)


def test_a_service_that_starts_again_takes_over_what_runs(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        workload = verifiers(tmp_path, 2)
        target = await stage.lead()
        await stage.launcher.apply(target, workload)
        await stage.up("verifier-0", "verifier-1")
        before = stage.launcher
        target = await stage.lead("another")
        adopted = await stage.launcher.adopt(target, workload)
        assert [(one.worker_id, one.state) for one in adopted] == [
            ("verifier-0", WorkerState.RUNNING),
            ("verifier-1", WorkerState.RUNNING),
        ]
        await stage.launcher.apply(target, workload)
        await asyncio.sleep(1)
        assert [len(stage.pids(f"verifier-{at}")) for at in range(2)] == [1, 1]
        assert all(alive(stage.pids(f"verifier-{at}")[0]) for at in range(2))
        with pytest.raises(LaunchError, match="another process has taken this role over"):
            await before.stop(RUN)
        assert all(alive(stage.pids(f"verifier-{at}")[0]) for at in range(2))

    with agents(tmp_path, valkey.url, "verifier", "verifier"):
        play(tmp_path, valkey.url, scenario)


@pytest.mark.slow
def test_an_outage_of_redis_takes_no_worker_from_its_agent(tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        target = await stage.lead()
        await stage.launcher.apply(target, verifiers(tmp_path, 1))
        await stage.up("verifier-0")
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(10)  # longer than a record holds
        await asyncio.to_thread(server.restart)
        seen = []
        for _ in range(40):
            seen += [one.state for one in await stage.launcher.observe(RUN)]
            await asyncio.sleep(0.2)
        assert set(seen) <= {WorkerState.RUNNING, WorkerState.STARTING}
        assert alive(stage.pids("verifier-0")[0])
        assert len(stage.pids("verifier-0")) == 1

    with EmbeddedValkey(tmp_path / "valkey", memory_mib=64) as server, agents(tmp_path, server.url, "verifier"):
        play(tmp_path, server.url, scenario)


def test_two_runs_share_agents_and_none_gets_the_other_s(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def scenario(stage: Stage) -> None:
        target = await stage.lead()
        other = await Bus.connect(valkey.url, "r-2")
        term = await other.lease.take("service", 600)
        second = replace(target, run_id="r-2", run_dir=tmp_path / "runs/r-2", term=term)
        await stage.free(3)
        mine, its = verifiers(tmp_path, 1), verifiers(tmp_path, 2)
        another = AttachedLauncher(stage.records, tmp_path, valkey.url)
        await asyncio.gather(stage.launcher.apply(target, mine), another.apply(second, its))
        placements = [await stage.records.placements(run_id) for run_id in (RUN, "r-2")]
        assert [len(one) for one in placements] == [1, 2]
        assert len({one.agent_id for found in placements for one in found.values()}) == 3
        await another.stop("r-2")
        await other.close()
        await stage.up("verifier-0")

    with agents(tmp_path, valkey.url, "verifier", "verifier", "verifier"):
        play(tmp_path, valkey.url, scenario)
