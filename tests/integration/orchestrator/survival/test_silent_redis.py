"""What becomes of a run that is to wait for room where Redis does not answer: it is there once, or not at all."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from dapo.bus.index import Desired, RunIndex
from dapo.bus.parts.runs import Runs
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.tokens import Scope
from services.orchestrator.api.operations import Operations
from services.orchestrator.fleet.service import RunService
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.queue.entries import Entries
from services.orchestrator.queue.machine import Machine
from services.orchestrator.runs import questions
from services.orchestrator.runs.questions import NoAnswer
from services.orchestrator.security.access import Caller
from tests.support.orchestrator.launcher import FakeLauncher

pytestmark = pytest.mark.timeout(120)
ME = Caller("me", Scope.ADMIN)


@asynccontextmanager
async def full(valkey: EmbeddedValkey, folder: Path) -> AsyncIterator[tuple[RunService, RunIndex]]:
    """A service that has room for one run."""
    index = await RunIndex.connect(valkey.url)
    machine = Machine(DeviceAllocator(()), runs=1)
    service = RunService(FakeLauncher(), state_dir=folder, redis_url=valkey.url, index=index, machine=machine)
    try:
        yield service, index
    finally:
        await service.close()
        await index.close()


def freeze(valkey: EmbeddedValkey) -> None:
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGSTOP)


def thaw(valkey: EmbeddedValkey) -> None:
    assert valkey.pid is not None
    os.kill(valkey.pid, signal.SIGCONT)


def test_a_key_makes_one_run_though_redis_falls_silent_before_the_answer(
    valkey: EmbeddedValkey, spec: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "_ANSWER_S", 1.0)
    add = Entries.add

    async def then_silence(self, *arguments, **options) -> None:
        await add(self, *arguments, **options)
        freeze(valkey)

    async def scenario() -> None:
        async with full(valkey, (tmp_path / "state").resolve()) as (service, _):
            operations = Operations(service, state_dir=tmp_path / "state")
            first = await service.create(json.dumps(spec))
            assert service.leads(first.id)
            monkeypatch.setattr(Entries, "add", then_silence)
            try:
                with pytest.raises(NoAnswer, match="was made, but cannot be shown"):
                    await operations.create(ME, json.dumps(spec), key="k")
            finally:
                thaw(valkey)
            monkeypatch.setattr(Entries, "add", add)
            run, again = await operations.create(ME, json.dumps(spec), key="k")
            assert again
            assert {one.id for one in await service.list()} == {first.id, run.id}

    asyncio.run(scenario())


def test_a_run_that_could_not_be_put_into_the_queue_is_not_there_later(
    valkey: EmbeddedValkey, spec: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Redis was sent while it was silent it does once it goes on."""
    monkeypatch.setattr(questions, "_ANSWER_S", 1.0)
    want = Runs.want

    async def in_silence(self, desired: Desired, epoch: int) -> None:
        freeze(valkey)
        await want(self, desired, epoch)

    async def scenario() -> None:
        async with full(valkey, (tmp_path / "state").resolve()) as (service, index):
            first = await service.create(json.dumps(spec))
            assert service.leads(first.id)
            monkeypatch.setattr(Runs, "want", in_silence)
            try:
                with pytest.raises(NoAnswer):
                    await service.create(json.dumps(spec))
            finally:
                thaw(valkey)
            monkeypatch.setattr(Runs, "want", want)
            async with asyncio.timeout(30):
                while {run.run_id for run in await index.runs()} != {first.id}:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            assert [one.id for one in await service.list()] == [first.id]
            client = index.server.client
            found = {key.decode().split(":")[1] async for key in client.scan_iter(match="dapo:{*", count=1000)}
            assert found == {f"{{{first.id}}}"}
            assert len(list((tmp_path / "state" / "runs").iterdir())) == 1

    asyncio.run(scenario())
