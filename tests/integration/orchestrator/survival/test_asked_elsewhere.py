"""What a run service says of runs, and does for them, that another one on its Redis leads, led or is to lead."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dapo.bus import Bus
from dapo.bus.index import Desired, Listed, Record, RunIndex
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.records.folder import RunFolder
from dapo.spec.load import dump_yaml
from dapo.v1 import run_pb2 as pb
from services.orchestrator.control.issuer import NotRequeued
from services.orchestrator.fleet.errors import BadField, RunConflict
from services.orchestrator.fleet.reconciler import Reconciler
from services.orchestrator.fleet.service import RunService
from services.orchestrator.fleet.steering import wishes
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.queue.machine import Machine
from services.orchestrator.records.remarks import Edit
from services.orchestrator.runs.questions import NoAnswer
from tests.support.models import save_model
from tests.support.orchestrator.control import make_spec
from tests.support.orchestrator.launcher import FakeLauncher

pytestmark = pytest.mark.timeout(120)


class Fleet:
    """Services of this process on one Valkey and one directory."""

    def __init__(self, folder: Path, url: str, index: RunIndex) -> None:
        self.root, self.url, self.index = folder / "state", url, index
        self.root.mkdir()
        save_model(folder / "model", seed=1)
        tree = {
            "model": {"path": str(folder / "model")},
            "data": {"max_prompt_tokens": 64},
            "checkpoint": {"on_stop_s": 1.0},
        }
        self.spec = dump_yaml(make_spec(folder, staleness=1, tree=tree))
        self.data = folder / "d.jsonl"

    @asynccontextmanager
    async def service(self, name: str, runs: int | None = None) -> AsyncIterator[RunService]:
        """`runs`: at a time."""
        machine = Machine(DeviceAllocator(()), runs=runs)
        where = {"state_dir": self.root, "redis_url": self.url, "index": self.index}
        service = RunService(FakeLauncher(), **where, owner=name, machine=machine)
        reconciler = Reconciler(self.index, service, name, self.root.resolve())
        await reconciler.begin()
        working = asyncio.create_task(reconciler.run())
        try:
            yield service
        finally:
            working.cancel()
            await service.close()

    async def record(self, run_id: str) -> Record:
        return (await self.index.read([run_id]))[run_id]

    async def is_led(self, run_id: str, by: str) -> bool:
        record = await self.record(run_id)
        return (record.holder, record.desired, record.state) == (by, Desired.RUNNING, "starting")

    async def leave_unled(self, run: pb.Run) -> None:
        """A run that has ended, as after kill -9 of whoever led it."""
        RunFolder(Path(run.run_dir)).summary.unlink()
        await self.index.want(run.id, Desired.RUNNING)


async def until(met: Callable[[], Awaitable[object]]) -> None:
    for _ in range(600):
        if await met():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("it did not come about")


def states(runs: list[pb.Run]) -> list[str]:
    return [pb.RunState.Name(run.state).removeprefix("RUN_STATE_").lower() for run in runs]


@pytest.fixture
def among(tmp_path: Path) -> Callable[[Callable[[Fleet], Awaitable[None]]], None]:
    def run(steps: Callable[[Fleet], Awaitable[None]]) -> None:
        async def on(url: str) -> None:
            index = await RunIndex.connect(url)
            try:
                await steps(Fleet(tmp_path, url, index))
            finally:
                await index.close()

        with EmbeddedValkey(tmp_path / "valkey", 64) as valkey:
            asyncio.run(on(valkey.url))

    return run


def test_a_service_where_a_run_had_ended_tells_that_it_goes_on_elsewhere_and_has_it_stopped(among) -> None:
    async def steps(fleet: Fleet) -> None:
        async with fleet.service("first") as first, fleet.service("second") as second:
            run = await first.create(fleet.spec)
            await until(lambda: fleet.is_led(run.id, "first"))
            assert states([await first.stop(run.id)]) == ["stopped"]
            await second.resume(run_id=run.id)
            await until(lambda: fleet.is_led(run.id, "second"))

            assert states([await first.get(run.id), *await first.list()]) == ["starting"] * 2
            assert not await first.is_over(run.id)
            watch = await first.watch(run.id)
            watching = asyncio.create_task(_all(watch))
            so_far = await asyncio.wait_for(_all(await first.watch(run.id, follow=False)), 30)
            assert [event.event.data()["state"] for event in so_far if event.ends_the_run] == ["stopped"]
            assert states([await first.stop(run.id)]) == ["stopped"]
            assert states([await second.get(run.id)]) == ["stopped"]
            ends = [event.event.data()["state"] for event in await watching if event.ends_the_run]
            assert ends == ["stopped"] * 2

            # The end that the first had brought about is not the run's last.
            await second.resume(run_id=run.id)
            await until(lambda: fleet.is_led(run.id, "second"))
            path = RunFolder(Path(run.run_dir)).summary
            await second.stop(run.id)
            path.write_text(json.dumps({**json.loads(path.read_text()), "state": "succeeded"}))
            assert states([await first.get(run.id), *await first.list()]) == ["succeeded"] * 2

    among(steps)


async def _all(watch: AsyncIterator) -> list:
    return [event async for event in watch]


def test_a_run_that_no_service_can_lead_says_why_and_is_stopped(among) -> None:
    async def steps(fleet: Fleet) -> None:
        async with fleet.service("first") as first:
            run = await first.create(fleet.spec)
            await until(lambda: fleet.is_led(run.id, "first"))
            run = await first.stop(run.id)
        await fleet.leave_unled(run)
        fleet.data.rename(fleet.data.with_suffix(".away"))
        async with fleet.service("second") as second:
            waits = await second.get(run.id)
            assert states([waits, *await second.list()]) == ["starting"] * 2
            assert waits.message.startswith("no service leads it")
            assert str(fleet.data) in waits.message
            assert not await second.is_over(run.id)
            watching = asyncio.create_task(_all(await second.watch(run.id)))
            assert states([await second.stop(run.id)]) == ["stopped"]
            assert (await fleet.record(run.id)).desired == Desired.STOPPED
            assert await second.is_over(run.id)
            await asyncio.wait_for(watching, 30)
            # A second stop of what has ended is none, here as where it had been led.
            assert states([await second.stop(run.id)]) == ["stopped"]

    among(steps)


def test_a_watch_ends_with_the_stop_of_a_run_whose_leader_was_killed(among) -> None:
    async def steps(fleet: Fleet) -> None:
        async with fleet.service("second") as second:
            bus = await Bus.connect(fleet.url, "r", instance="a")
            epoch = await bus.lease.take("first", 3.0)
            await bus.runs.set_state("running", "", epoch)
            await fleet.index.want("r", Desired.RUNNING)
            await fleet.index.add(Listed("r", str(fleet.root / "runs/r"), "2026-01-02T03:04:05.000+00:00", "n"))
            watching = asyncio.create_task(_all(await second.watch("r")))
            await fleet.index.want("r", Desired.STOPPED)
            assert await asyncio.wait_for(watching, 30) == []
            assert (await fleet.record("r")).holder is None
            await bus.close()

    among(steps)


def test_runs_are_listed_beside_one_whose_record_is_not_written_yet(among) -> None:
    async def steps(fleet: Fleet) -> None:
        async with fleet.service("first") as first, fleet.service("second") as second:
            run = await first.create(fleet.spec)
            await until(lambda: fleet.is_led(run.id, "first"))
            # As after Redis was emptied, while a leader reads its inputs.
            await fleet.index.want("r", Desired.RUNNING)
            await fleet.index.add(Listed("r", str(fleet.root / "runs/r"), "2026-01-02T03:04:05.000+00:00", "n"))
            bus = await Bus.connect(fleet.url, "r", instance="a")
            await bus.lease.take("third", 30.0)
            listed = await second.list()
            assert [(one.id, one.steps_total) for one in listed] == [("r", 0), (run.id, run.steps_total)]
            assert states([*listed, await second.get("r")]) == ["starting"] * 3
            await bus.close()

    among(steps)


def test_what_a_leader_refuses_is_what_another_service_answers(among) -> None:
    async def steps(fleet: Fleet) -> None:
        async with fleet.service("first") as first, fleet.service("second") as second:
            run = await first.create(fleet.spec)
            await until(lambda: fleet.is_led(run.id, "first"))
            with pytest.raises(RunConflict, match=f"run {run.id} is starting: it is scaled while it runs"):
                await second.update(run.id, Edit(), verifiers=2)
            with pytest.raises(NotRequeued, match="is not issued once more: the run issues no prompts"):
                await second.requeue(run.id, "g0000000000")
            with pytest.raises(BadField, match="at least one generator"):
                await second.update(run.id, Edit(), generators=0)

    among(steps)


def test_what_no_leader_takes_up_is_taken_back_and_what_it_does_not_answer_is_said_to_be_unknown(
    among, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wishes, "_TAKEN_S", 0.5)
    monkeypatch.setattr(wishes, "_CARRIED_OUT_S", 0.5)

    async def steps(fleet: Fleet) -> None:
        here = wishes.Wishes(fleet.index)
        with pytest.raises(NoAnswer, match=r"has not taken it up in 0\.5 s"):
            await here.have("r", "scale", {})
        assert (await fleet.record("r")).wishes == {}

        async def take() -> None:
            await until(lambda: _wishes(fleet))
            assert await fleet.index.take("r", *await _wishes(fleet))

        taking = asyncio.create_task(take())
        with pytest.raises(NoAnswer, match="has begun with it, but has not said"):
            await here.have("r", "scale", {})
        await taking

    among(steps)


async def _wishes(fleet: Fleet) -> list[str]:
    return list((await fleet.record("r")).wishes)


def test_a_wish_is_carried_out_once_however_many_take_it(among) -> None:
    async def steps(fleet: Fleet) -> None:
        done: list[str] = []

        async def do(what: str, asked: Mapping[str, object]) -> None:
            done.append(f"{what} {asked}")
            await asyncio.sleep(0.05)

        here = wishes.Wishes(fleet.index)
        asking = asyncio.create_task(here.have("r", "scale", {"replicas": {"verifier": 2}}))
        await until(lambda: _wishes(fleet))
        ((wish_id, text),) = (await fleet.record("r")).wishes.items()
        await asyncio.gather(*(here.carry_out("r", wish_id, text, do) for _ in range(8)))
        await asking
        assert done == ["scale {'replicas': {'verifier': 2}}"]

    among(steps)


def test_a_wish_of_somebody_who_has_gone_is_not_carried_out_later(among, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wishes, "_TAKEN_S", 0.3)

    async def steps(fleet: Fleet) -> None:
        done: list[str] = []

        async def do(what: str, asked: Mapping[str, object]) -> None:
            done.append(what)

        here = wishes.Wishes(fleet.index)
        asking = asyncio.create_task(here.have("r", "scale", {"replicas": {"verifier": 2}}))
        await until(lambda: _wishes(fleet))
        asking.cancel()
        await asyncio.sleep(0.5)
        ((wish_id, text),) = (await fleet.record("r")).wishes.items()
        await here.carry_out("r", wish_id, text, do)
        assert done == []
        assert (await fleet.record("r")).wishes == {}
        answer = json.loads(await fleet.index.read_answer("r", wish_id) or "")
        assert answer["refusal"] == "NoAnswer"

    among(steps)
