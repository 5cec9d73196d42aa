"""The lease of a run, over a real Valkey: taken by one, renewed, lost, lapsed while Redis was away."""

import asyncio
import threading
from pathlib import Path

import pytest

from dapo.bus import Bus, Fenced
from dapo.bus.errors import LeaseHeld
from dapo.bus.index import Desired, Listed, RunIndex
from dapo.bus.keys import ORCHESTRATOR, WORKERS
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.events import Alert
from dapo.records.identity import RunIdentity, read_identity
from dapo.spec.run import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs import tenure
from services.orchestrator.runs.driver import RunDriver
from services.orchestrator.runs.inputs import Inputs, open_inputs
from services.orchestrator.runs.outcome import has_end
from services.orchestrator.runs.tenure import Tenure
from tests.support.bus import RUN, drive, everything
from tests.support.orchestrator.control import make_spec
from tests.support.orchestrator.launcher import FakeLauncher
from tests.support.waiting import eventually


@pytest.fixture(autouse=True)
def short_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenure, "LEASE_S", 1.0)
    monkeypatch.setattr(tenure, "_RENEW_S", 0.3)


def freeze(held: Tenure) -> None:
    """It renews no more, as if its process were stopped."""
    assert held._keeping is not None
    held._keeping.cancel()


def test_of_two_that_ask_at_once_one_leads_until_it_lets_go(valkey: EmbeddedValkey) -> None:
    async def scenario(first: Bus, second: Bus) -> None:
        tenures = Tenure("first"), Tenure("second")
        asked = (one.take(bus) for one, bus in zip(tenures, (first, second), strict=True))
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        (refused,) = [outcome for outcome in outcomes if outcome is not None]
        winner, loser = tenures if outcomes[0] is None else tenures[::-1]
        assert isinstance(refused, LeaseHeld)
        assert str(refused) == f"run {RUN} is led by {winner._owner}"
        await asyncio.sleep(2.0)
        with pytest.raises(LeaseHeld):
            await loser.take(second)
        assert (winner.epoch > 0, loser.epoch) == (True, 0)
        await winner.secure()
        await winner.release()
        await loser.take(second)
        assert loser.epoch > winner.epoch
        await loser.release()

    drive(valkey.url, scenario, buses=2)


def test_a_lease_that_lapses_is_taken_and_its_holder_can_do_nothing_more(valkey: EmbeddedValkey) -> None:
    async def scenario(first: Bus, second: Bus) -> None:
        old, new = Tenure("old"), Tenure("new")
        await old.take(first)
        freeze(old)
        await new.take(second, patience_s=5.0)
        with pytest.raises(Fenced):
            await old.secure()
        with pytest.raises(Fenced):
            await first.runs.emit(Alert(message="late"))
        assert not await old.may_conclude(alone=True)
        assert await new.may_conclude(alone=False)
        await old.release()
        with pytest.raises(LeaseHeld):
            await Tenure("third").take(second)
        await new.release()

    drive(valkey.url, scenario, buses=2)


def test_a_leader_is_told_that_it_leads_no_more(valkey: EmbeddedValkey) -> None:
    async def scenario(first: Bus, second: Bus) -> None:
        old = Tenure("old")
        await old.take(first)
        await second.lease.acquire("orchestrator")
        async with asyncio.timeout(5):
            with pytest.raises(Fenced):
                await old.lost()

    drive(valkey.url, scenario, buses=2)


def test_a_redis_that_is_away_for_longer_than_a_lease_takes_it_from_nobody(tmp_path: Path) -> None:
    async def scenario(server: EmbeddedValkey) -> None:
        bus = await Bus.connect(server.url, RUN, outage_s=30)
        held = Tenure("holder")
        await held.take(bus)
        server.kill()
        await asyncio.sleep(1.5)
        writing = asyncio.create_task(held.secure())
        await asyncio.sleep(0.2)
        assert not writing.done(), "it may not be sure"
        await asyncio.to_thread(server.start)
        async with asyncio.timeout(10):
            await writing
        with pytest.raises(LeaseHeld):
            await Tenure("other").take(bus)
        await held.release()
        await bus.close()

    with EmbeddedValkey(tmp_path, 64) as server:
        asyncio.run(scenario(server))


class Reading:
    """Inputs that a driver has begun to read, and reads on once it may."""

    def __init__(self) -> None:
        self._begun, self._may_end = threading.Event(), threading.Event()

    def read(self, spec: RunSpec) -> Inputs:
        self._begun.set()
        assert self._may_end.wait(30)
        return open_inputs(spec)

    async def begun(self) -> None:
        assert await asyncio.to_thread(self._begun.wait, 30)

    def go_on(self) -> None:
        self._may_end.set()


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Reading:
    slow = Reading()
    monkeypatch.setattr("services.orchestrator.runs.driver.open_inputs", slow.read)
    return slow


def make_driver(url: str, folder: Path, launcher: FakeLauncher, *, resumed: bool, listed: list[str]) -> RunDriver:
    spec = make_spec(folder.parent, staleness=1)
    identity = RunIdentity(RUN, "2026-01-02T03:04:05.000+00:00", history="first")
    recorder = Recorder.create(folder, spec, identity, shared=True)
    if resumed:
        recorder.close()
        (folder / "summary.json").write_text('{"state": "stopped", "message": ""}')
        recorder = Recorder.reopen(folder, spec, shared=True)

    async def enlist() -> None:
        listed.append(RUN)

    previous = spec if resumed else None
    asked = {"previous": previous, "desired": Desired.RUNNING}
    return RunDriver(spec, recorder, launcher, redis_url=url, **asked, owner="driver", enlist=enlist)


def test_a_leader_that_loses_its_lease_while_it_reads_its_inputs_changes_no_file(
    valkey: EmbeddedValkey, tmp_path: Path, reading: Reading
) -> None:
    folder = tmp_path / "run"

    def files() -> dict[str, tuple[bytes, int]]:
        paths = (path for path in folder.iterdir() if path.is_file())
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}

    async def scenario(successor: Bus) -> None:
        driver = make_driver(valkey.url, folder, FakeLauncher(), resumed=True, listed=[])
        driver.start()
        await reading.begun()
        freeze(driver._tenure)
        await Tenure("new").take(successor, patience_s=5.0)
        # It writes what the old one would delete, cut off and overwrite.
        (folder / "summary.json").write_text('{"state": "succeeded"}')
        (folder / "metrics.jsonl").write_text('{"step": 1, "time_s": 1.0}\n{"step": 2, "ti')
        before = files()
        reading.go_on()
        await eventually(lambda: driver.over)
        assert driver.left
        assert files() == before

    drive(valkey.url, scenario)


@pytest.mark.parametrize("resumed", [False, True])
def test_others_know_of_a_run_before_its_inputs_are_read_and_may_stop_it(
    valkey: EmbeddedValkey, tmp_path: Path, reading: Reading, resumed: bool
) -> None:
    folder, launcher, listed = tmp_path / "run", FakeLauncher(), list[str]()

    async def scenario(bus: Bus) -> None:
        index = await RunIndex.connect(valkey.url)
        if resumed:
            await bus.runs.create("{}", str(folder), "now", "first")
            await index.want(RUN, Desired.STOPPED)
        driver = make_driver(valkey.url, folder, launcher, resumed=resumed, listed=listed)
        driver.start()
        await reading.begun()
        # If it were killed now, a service that sees this would go on with the run.
        assert (await index.read([RUN]))[RUN][:5] == (Desired.RUNNING, "driver", "first", "starting", "")
        assert listed == [RUN]
        assert read_identity(folder).taken_up
        assert not has_end(folder)
        await index.want(RUN, Desired.STOPPED)
        reading.go_on()
        await eventually(lambda: launcher.applied)
        assert (await index.read([RUN]))[RUN].desired == Desired.STOPPED
        await driver.stop()
        await index.close()

    drive(valkey.url, scenario)


def test_a_stop_that_comes_while_the_lease_is_waited_for_stands(
    valkey: EmbeddedValkey, tmp_path: Path, reading: Reading
) -> None:
    folder, launcher = tmp_path / "run", FakeLauncher()

    async def scenario(bus: Bus) -> None:
        index = await RunIndex.connect(valkey.url)
        leader = Tenure("leader")
        await leader.take(bus)
        await bus.runs.create("{}", str(folder), "now", "first")
        await bus.runs.want(Desired.RUNNING, leader.epoch)
        driver = make_driver(valkey.url, folder, launcher, resumed=True, listed=[])
        driver.start()
        await asyncio.sleep(1.0)
        await index.want(RUN, Desired.STOPPED)
        await leader.release()
        await reading.begun()
        reading.go_on()
        await eventually(lambda: launcher.applied)
        assert (await index.read([RUN]))[RUN][:2] == (Desired.STOPPED, "driver")
        await driver.stop()
        await index.close()

    drive(valkey.url, scenario)


def test_the_workers_of_a_former_leader_write_nothing_once_its_lease_is_taken(valkey: EmbeddedValkey) -> None:
    """Its learner marks no checkpoint either, whose files Redis does not guard."""

    async def scenario(old: Bus, learner: Bus, new: Bus) -> None:
        learner.act_for(WORKERS, await old.lease.take("old", 0.5))
        own = await learner.lease.acquire("learner")
        await learner.lease.check("learner", own)
        await asyncio.sleep(0.6)
        await new.lease.take("new", 60.0)
        before = await everything(new)
        for attempt in (
            learner.lease.check("learner", own),
            learner.weights.publish_version(pb.Version(incarnation=own, step=9), own),
            learner.runs.emit(Alert(message="late")),
        ):
            with pytest.raises(Fenced, match="workers epoch"):
                await attempt
        assert await everything(new) == before

    drive(valkey.url, scenario, buses=3)


@pytest.mark.parametrize("lost", ["deleted", "without its data"])
def test_a_former_holder_writes_nothing_where_the_epochs_were_lost(valkey: EmbeddedValkey, lost: str) -> None:
    async def scenario(old: Bus, worker: Bus, new: Bus) -> None:
        epoch = await old.lease.take("old", 0.01)
        old.act_for(ORCHESTRATOR, epoch)
        worker.act_for(WORKERS, epoch)
        await asyncio.sleep(0.05)
        if lost == "deleted":
            await new.runs.delete()
        else:
            await new.control_server.client.flushall()
        assert await new.lease.take("new", 60.0) > epoch
        await new.runs.create("{}", "runs/x", "now")
        before = await everything(new)
        attempts = [
            old.runs.emit(Alert(message="late")),
            old.lease.renew("old", epoch, 60.0),
            old.runs.set_state("failed", "", epoch),
            worker.runs.emit(Alert(message="late")),
        ]
        for attempt in attempts:
            with pytest.raises(Fenced):
                await attempt
        assert await everything(new) == before

    drive(valkey.url, scenario, buses=3)


def test_the_epochs_of_leaders_grow_also_where_the_clock_does_not(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        ahead = 2**52 + 1  # the server's clock was far ahead, and has been set right
        await bus.control_server.client.set(bus.keys.epoch(ORCHESTRATOR), ahead)
        assert [await bus.lease.take("x", 60.0) for _ in range(2)] == [ahead + 1, ahead + 2]
        assert await bus.lease.newest(ORCHESTRATOR) == ahead + 2
        assert await bus.lease.newest(WORKERS) == ahead + 2
        assert [await bus.lease.acquire("learner") for _ in range(2)] == [1, 2], "they stand in versions and file names"

    drive(valkey.url, scenario)


def test_the_index_tells_of_runs_what_is_wanted_and_who_leads(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        index = await RunIndex.connect(valkey.url)
        listed = Listed(RUN, "/runs/x", "2026-01-02T03:04:05.000+00:00", "x")
        await index.add(listed)
        await index.add(listed)
        assert await index.runs() == [listed]
        assert (await index.read([RUN]))[RUN][:5] == (None, None, "", "", "")
        held = Tenure("holder")
        await held.take(bus)
        await bus.runs.create("{}", "/runs/x", "now", "history")
        await bus.runs.want(Desired.RUNNING, held.epoch)
        await bus.runs.set_state("running", "", held.epoch)
        assert (await index.read([RUN]))[RUN][:5] == (Desired.RUNNING, "holder", "history", "running", "")
        await index.want(RUN, Desired.STOPPED)
        await held.release()
        assert (await index.read([RUN]))[RUN][:5] == (Desired.STOPPED, None, "history", "running", "")
        await index.remove(RUN)
        assert await index.runs() == []
        await index.close()

    drive(valkey.url, scenario)
