"""What the reconciler makes of what is wanted of a run, over a real Valkey."""

import asyncio
import gc
import json
import threading
from pathlib import Path

import pytest

from dapo.bus.errors import BusUnavailable
from dapo.bus.index import Desired, RunIndex
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.v1 import run_pb2 as pb
from services.orchestrator.fleet import elsewhere
from services.orchestrator.fleet.reconciler import Reconciler
from services.orchestrator.fleet.service import RunService
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.queue.machine import Machine
from services.orchestrator.runs import driver
from services.orchestrator.runs.driver import RunDriver
from services.orchestrator.runs.inputs import open_inputs
from services.orchestrator.runs.questions import NoAnswer
from tests.support.orchestrator.launcher import FakeLauncher
from tests.support.waiting import eventually


def test_a_run_that_is_ended_before_it_has_begun_has_an_end(valkey: EmbeddedValkey, spec: dict, tmp_path: Path) -> None:
    """Of one that others know of, a driver writes nothing before it leads it."""

    async def scenario() -> None:
        index = await RunIndex.connect(valkey.url)
        root = (tmp_path / "state").resolve()
        machine = Machine(DeviceAllocator(()), runs=1)
        service = RunService(FakeLauncher(), state_dir=root, redis_url=valkey.url, index=index, machine=machine)
        reconciler = Reconciler(index, service, "one", root)
        async with asyncio.timeout(60):
            first, second = [await service.create(json.dumps(spec)) for _ in range(2)]
            assert second.state == pb.RUN_STATE_QUEUED
            await service.cancel(first.id)
            await reconciler.look()
            assert (await service.get(second.id)).state == pb.RUN_STATE_STARTING
            assert (await service.cancel(second.id)).state == pb.RUN_STATE_CANCELLED
            assert not service.leads(second.id)
            for run in (second, first):
                assert (await service.get(run.id)).message == "cancelled on request"
                assert (await index.read([run.id]))[run.id][:2] == (Desired.STOPPED, None)
                await service.resume(run.id)
                assert service.leads(run.id)
                assert (await service.stop(run.id)).message == "stopped on request"
                assert json.loads((Path(run.run_dir) / "summary.json").read_text())["state"] == "stopped"
        await service.close()
        await index.close()

    asyncio.run(scenario())


def test_of_a_run_that_has_ended_nothing_is_kept_but_its_folder(
    valkey: EmbeddedValkey, spec: dict, tmp_path: Path
) -> None:
    def drivers() -> list[str]:
        gc.collect()
        return [one.run_id for one in gc.get_objects() if isinstance(one, RunDriver)]

    async def scenario() -> None:
        index = await RunIndex.connect(valkey.url)
        root = (tmp_path / "state").resolve()
        service = RunService(
            FakeLauncher(), state_dir=root, redis_url=valkey.url, index=index, owner="one", alone=False
        )
        async with asyncio.timeout(60):
            first, second = [(await service.create(json.dumps(spec))).id for _ in range(2)]
            assert service.leads(first)
            assert service.leads(second)
            assert {first, second} <= set(drivers())
            assert (await service.stop(first)).state == pb.RUN_STATE_STOPPED
            states = {run.id: run.state for run in await service.list()}
            assert (states[first], states[second]) == (pb.RUN_STATE_STOPPED, pb.RUN_STATE_STARTING)
            found = drivers()
            assert (first in found, second in found) == (False, True)
            assert (await service.get(first)).message == "stopped on request"
            await service.resume(first)
            assert service.leads(first)
        await service.close()
        await index.close()

    asyncio.run(scenario())


def test_a_stop_that_redis_knows_late_does_not_end_the_run_that_was_resumed_since(
    valkey: EmbeddedValkey, spec: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    want, failures = RunIndex.want, iter([True] * 3)

    async def fails(index: RunIndex, run_id: str, desired: Desired) -> None:
        if next(failures, False):
            raise BusUnavailable("away")
        await want(index, run_id, desired)

    async def scenario() -> None:
        index = await RunIndex.connect(valkey.url)
        root = (tmp_path / "state").resolve()
        service = RunService(FakeLauncher(), state_dir=root, redis_url=valkey.url, index=index, owner="one", alone=True)
        async with asyncio.timeout(60):
            run_id = (await service.create(json.dumps(spec))).id
            assert service.leads(run_id)
            monkeypatch.setattr(RunIndex, "want", fails)
            assert (await service.stop(run_id)).state == pb.RUN_STATE_STOPPED
            with pytest.raises(NoAnswer, match="is to end, which Redis does not know yet"):
                await service.resume(run_id)
            await service.resume(run_id)
            assert next(failures, None) is None
            assert service.leads(run_id)
            await asyncio.sleep(2 * elsewhere._LOOK_S)
            assert (await index.read([run_id]))[run_id].desired == Desired.RUNNING
        await service.close()
        await index.close()

    asyncio.run(scenario())


def test_a_run_that_is_resumed_is_not_ended_by_the_stop_before(
    valkey: EmbeddedValkey, spec: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    gate.set()

    def opened(*arguments):
        assert gate.wait(30)
        return open_inputs(*arguments)

    monkeypatch.setattr(driver, "open_inputs", opened)

    async def scenario() -> None:
        index = await RunIndex.connect(valkey.url)
        root = (tmp_path / "state").resolve()
        service = RunService(FakeLauncher(), state_dir=root, redis_url=valkey.url, index=index, owner="one", alone=True)
        reconciler = Reconciler(index, service, "one", root)

        async with asyncio.timeout(30):
            run_id = (await service.create(json.dumps(spec))).id
            await service.stop(run_id)
            gate.clear()
            await service.resume(run_id)
            await reconciler.look()
            gate.set()
            # One that comes later counts.
            await index.want(run_id, Desired.STOPPED)
            await reconciler.look()
            await eventually(lambda: not service.leads(run_id))
            assert (await service.get(run_id)).state == pb.RUN_STATE_STOPPED
        await service.close()
        await index.close()

    asyncio.run(scenario())
