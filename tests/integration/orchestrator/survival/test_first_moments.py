"""What is asked of a run in the first moments of it, by others and by this service, over a real Valkey."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dapo.bus import Bus
from dapo.bus.index import Desired, RunIndex
from dapo.bus.parts.registry import Lease
from dapo.bus.parts.runs import Runs
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.records.folder import RunFolder
from dapo.spec.run import RunSpec
from dapo.v1 import run_pb2 as pb
from services.orchestrator.fleet.errors import RunConflict, RunNotFound
from services.orchestrator.fleet.reconciler import Reconciler
from services.orchestrator.fleet.service import RunService
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.queue.machine import Machine
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs import driver as driving
from services.orchestrator.runs.questions import NoAnswer
from tests.integration.orchestrator.survival.test_asked_elsewhere import Fleet, states, until
from tests.support.orchestrator.launcher import FakeLauncher

pytestmark = pytest.mark.timeout(120)
Steps = Callable[[Fleet], Awaitable[None]]


def among(folder: Path, steps: Steps) -> None:
    async def on(url: str) -> None:
        index = await RunIndex.connect(url)
        try:
            await steps(Fleet(folder, url, index))
        finally:
            await index.close()

    with EmbeddedValkey(folder / "valkey", 64) as valkey:
        asyncio.run(on(valkey.url))


async def ended(fleet: Fleet, service: RunService, run_id: str) -> None:
    await until(lambda: asyncio.sleep(0, not service.leads(run_id)))
    record = await fleet.record(run_id)
    assert (record.desired, record.holder) == (Desired.STOPPED, None)


def told(run: pb.Run) -> list[str]:
    """The states that watchers were told of, in order."""
    lines = (RunFolder(Path(run.run_dir)).events).read_text().splitlines()
    return [one["data"]["state"] for one in map(json.loads, lines) if one["kind"] == "state"]


@pytest.mark.parametrize("end", ["cancel", "stop"])
def test_others_end_a_run_that_was_created_or_resumed_a_moment_ago(tmp_path: Path, end: str) -> None:
    async def steps(fleet: Fleet) -> None:
        async with fleet.service("first") as first, fleet.service("second") as second:
            run = await first.create(fleet.spec)
            listed = [one.run_id for one in await fleet.index.runs()]
            record = await fleet.record(run.id)
            assert (listed, record.desired, record.holder) == ([run.id], Desired.RUNNING, "first")
            expected = "cancelled" if end == "cancel" else "stopped"
            for _ in range(2):
                assert states([await getattr(second, end)(run.id)]) == [expected]
                await ended(fleet, first, run.id)
                await first.resume(run.id)
            with pytest.raises(RunConflict, match="elsewhere"):
                await second.delete(run.id, checkpoints=True)
            await second.cancel(run.id)

    among(tmp_path, steps)


def test_a_run_that_redis_does_not_take_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def steps(fleet: Fleet) -> None:
        async with fleet.service("first") as service:
            run = await service.create(fleet.spec)
            await service.stop(run.id)

            async def hang(*_: object) -> None:
                await asyncio.sleep(60)

            with monkeypatch.context() as patch:
                patch.setattr(RunIndex, "add", hang)
                with pytest.raises(NoAnswer):
                    await service.create(fleet.spec)
                with pytest.raises(NoAnswer):
                    await service.resume(run.id)
            assert [one.id for one in await service.list()] == [run.id]
            assert states([await service.get(run.id)]) == ["stopped"]
            assert [path.name for path in (fleet.root / "runs").iterdir()] == [run.id]
            await ended(fleet, service, run.id)
            assert states([await service.resume(run.id)]) == ["starting"]

    among(tmp_path, steps)


def test_a_cancel_while_the_record_of_a_run_is_written_is_not_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Runs.create

    async def cancelled_first(runs: Runs, *record: str) -> None:
        await fleets[0].index.want(runs._context.run_id, Desired.CANCELLED)
        await create(runs, *record)

    fleets: list[Fleet] = []

    async def steps(fleet: Fleet) -> None:
        fleets.append(fleet)
        async with fleet.service("first") as service:
            with monkeypatch.context() as patch:
                patch.setattr(Runs, "create", cancelled_first)
                run = await service.create(fleet.spec)
            await ended(fleet, service, run.id)
            assert states([await service.get(run.id)]) == ["cancelled"]

    among(tmp_path, steps)


def test_a_cancel_while_a_service_takes_a_run_up_is_not_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Lease.take

    async def steps(fleet: Fleet) -> None:
        async with fleet.service("first") as first:
            run = await first.create(fleet.spec)
            await first.stop(run.id)
        await fleet.leave_unled(run)
        asked = [0]

        async def cancelled_first(lease: Lease, *arguments: object, workers_stay: bool) -> int:
            asked[0] += 1
            if asked[0] == 2:  # the queue's own is the first, the driver's the second
                await fleet.index.want(run.id, Desired.CANCELLED)
            return await take(lease, *arguments, workers_stay=workers_stay)  # type: ignore[arg-type]

        monkeypatch.setattr(Lease, "take", cancelled_first)
        async with fleet.service("second") as second:
            await until(lambda: asyncio.sleep(0, asked[0] == 2))
            await ended(fleet, second, run.id)
            assert states([await second.get(run.id)]) == ["cancelled"]

    among(tmp_path, steps)


@pytest.mark.parametrize("slow", [(Recorder, "keep_identity"), (Lease, "take")])
def test_a_run_that_is_cut_short_while_it_begins_is_over_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: tuple[type, str]
) -> None:
    monkeypatch.setattr(driving.completion, "REDIS_S", 0.2)
    reached, go_on = asyncio.Event(), asyncio.Event()
    do, calls = getattr(slow[0], slow[1]), [0]

    async def slowly(it: object, *arguments: object, **options: object) -> object:
        calls[0] += 1
        if slow[0] is Recorder:
            reached.set()
            await go_on.wait()
            return await do(it, *arguments, **options)
        done = await do(it, *arguments, **options)
        if calls[0] == 2:  # of the driver; the first is the queue's
            reached.set()
            await go_on.wait()
        return done

    async def steps(fleet: Fleet) -> None:
        async with fleet.service("first") as first:
            run = await first.create(fleet.spec)
            await first.stop(run.id)
        await fleet.leave_unled(run)
        with monkeypatch.context() as patch:
            patch.setattr(slow[0], slow[1], slowly)
            async with fleet.service("second") as second:
                await reached.wait()
                cancelling = asyncio.create_task(second.cancel(run.id))
                await asyncio.sleep(1.0)
                go_on.set()
                assert states([await cancelling]) == ["cancelled"]
                await ended(fleet, second, run.id)
                assert states([await second.get(run.id)]) == ["cancelled"]
                await second.purge(run.id)

    among(tmp_path, steps)


@pytest.mark.parametrize("what", ["purge", "delete"])
@pytest.mark.parametrize("first", ["resume", "removal"])
def test_a_run_is_not_resumed_while_it_is_removed_nor_removed_while_it_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, first: str
) -> None:
    async def steps(fleet: Fleet) -> None:
        async with fleet.service("first") as service:
            run = await service.create(fleet.spec)
            await service.stop(run.id)
            reached, go_on = asyncio.Event(), asyncio.Event()
            owner, name = (RunIndex, "add") if first == "resume" else (Runs, "delete")
            do = getattr(owner, name)

            async def slowly(*arguments: object) -> None:
                reached.set()
                await go_on.wait()
                await do(*arguments)

            monkeypatch.setattr(owner, name, slowly)

            async def remove() -> None:
                await (service.purge(run.id) if what == "purge" else service.delete(run.id, checkpoints=True))

            async def resume() -> pb.Run:
                return await service.resume(run.id)

            one, other = (resume, remove) if first == "resume" else (remove, resume)
            asked = [asyncio.create_task(one())]
            await reached.wait()
            asked.append(asyncio.create_task(other()))
            await asyncio.sleep(0.3)
            go_on.set()
            done, answer = await asyncio.gather(*asked, return_exceptions=True)
            if first == "resume":
                assert (states([done]), type(answer)) == (["starting"], RunConflict)
            elif what == "purge":
                assert (done, states([answer])) == (None, ["starting"])
            else:
                assert (done, type(answer)) == (None, RunNotFound)
                assert not await asyncio.to_thread(Path(run.run_dir).exists)
                return
            await until(lambda: fleet.is_led(run.id, "first"))
            assert states([await service.cancel(run.id)]) == ["cancelled"]

    among(tmp_path, steps)


def test_of_two_resumes_at_once_one_is_refused(tmp_path: Path) -> None:
    async def steps(fleet: Fleet) -> None:
        async with fleet.service("first", runs=1) as service:
            run = await service.create(fleet.spec)
            await service.stop(run.id)
            await service.create(fleet.spec)
            answers = await asyncio.gather(service.resume(run.id), service.resume(run.id), return_exceptions=True)
            assert [type(one) for one in answers] == [pb.Run, RunConflict]
            # Nor does another service have it wait twice, which has not seen it yet.
            other = RunService(
                FakeLauncher(), state_dir=fleet.root, redis_url=fleet.url, index=fleet.index, owner="other"
            )
            with pytest.raises(RunConflict, match="waits for room already"):
                await other.resume(run.id)
            await other.close()
            await service.cancel(run.id)
            assert told(run)[-2:] == ["queued", "cancelled"]
            assert told(run).count("queued") == 1

    among(tmp_path, steps)


def test_a_look_that_is_cut_short_takes_no_gpu_from_a_run_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    close, released = Bus.close, []

    async def steps(fleet: Fleet) -> None:
        machine = Machine(DeviceAllocator(()), runs=1)
        monkeypatch.setattr(machine, "release", released.append)
        where = {"state_dir": fleet.root, "redis_url": fleet.url, "index": fleet.index}
        service = RunService(FakeLauncher(), **where, owner="first", machine=machine)
        reconciler = Reconciler(fleet.index, service, "first", fleet.root.resolve())
        first, second = [await service.create(fleet.spec) for _ in range(2)]
        assert states([second]) == ["queued"]
        await service.cancel(first.id)

        async def slowly(bus: Bus) -> None:
            await asyncio.sleep(0.5)
            await close(bus)

        with monkeypatch.context() as patch:
            patch.setattr(Bus, "close", slowly)
            look = asyncio.create_task(reconciler.look())
            await until(lambda: asyncio.sleep(0, service.leads(second.id)))
            look.cancel()
            await asyncio.wait({look})
        assert look.cancelled()
        assert service.leads(second.id)
        assert released == []
        await reconciler.look()
        assert released == []
        assert states([await service.cancel(second.id)]) == ["cancelled"]
        await service.close()

    among(tmp_path, steps)


def test_a_queued_run_that_is_resumed_while_it_is_cancelled_is_cancelled_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep, reached, go_on = Recorder.keep_next_spec, asyncio.Event(), asyncio.Event()

    async def slowly(recorder: Recorder, spec: RunSpec | None) -> None:
        if not go_on.is_set():
            reached.set()
            await go_on.wait()
        await keep(recorder, spec)

    async def steps(fleet: Fleet) -> None:
        async with fleet.service("first", runs=1) as service:
            busy, run = [await service.create(fleet.spec) for _ in range(2)]
            monkeypatch.setattr(Recorder, "keep_next_spec", slowly)
            cancelling = asyncio.create_task(service.cancel(run.id))
            await reached.wait()
            await service.cancel(busy.id)
            resuming = asyncio.create_task(service.resume(run.id))
            await asyncio.sleep(0.5)
            go_on.set()
            assert states([await cancelling, await resuming])[1] == "starting"
            await until(lambda: fleet.is_led(run.id, "first"))
            await service.cancel(run.id)
            assert told(run) == ["queued", "cancelled", "starting", "cancelled"]

    among(tmp_path, steps)
