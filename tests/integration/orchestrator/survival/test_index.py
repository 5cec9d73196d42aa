"""The index of runs holds those that go on: what is asked of one costs the same however many have ended."""

import asyncio

import pytest

from dapo.bus import Bus
from dapo.bus.index import Desired, Listed, RunIndex
from dapo.contracts.events import Alert
from services.orchestrator.fleet.errors import RunNotFound
from services.orchestrator.fleet.service import RunService
from tests.integration.orchestrator.survival.test_asked_elsewhere import Fleet, among, states, until
from tests.support.orchestrator.launcher import FakeLauncher

__all__ = ["among"]


def listed(run_id: str) -> Listed:
    return Listed(run_id, f"/runs/{run_id}", "2026-01-02T03:04:05.000+00:00", "n")


def test_a_run_that_has_ended_leaves_the_index_and_comes_back_as_it_goes_on(among) -> None:
    async def steps(fleet: Fleet) -> None:
        async with fleet.service("first") as first, fleet.service("second") as second:
            run = await first.create(fleet.spec)
            await until(lambda: fleet.is_led(run.id, "first"))
            assert [one.run_id for one in await fleet.index.runs()] == [run.id]
            await first.stop(run.id)
            await until(lambda: _is_empty(fleet.index))
            assert states([await first.get(run.id), *await second.list()]) == ["stopped"] * 2
            assert await second.is_over(run.id)

            await second.resume(run.id)
            await until(lambda: fleet.is_led(run.id, "second"))
            assert [one.run_id for one in await fleet.index.runs()] == [run.id]
            assert states([await first.get(run.id), *await first.list()]) == ["starting"] * 2
            await second.stop(run.id)
        async with fleet.service("third") as third:
            await until(lambda: _is_empty(fleet.index))
            assert states(await third.list()) == ["stopped"]

    among(steps)


async def _is_empty(index: RunIndex) -> bool:
    return not await index.runs()


def test_what_goes_on_again_is_not_taken_from_the_index(among) -> None:
    """By an instance that saw its end a moment before."""

    async def steps(fleet: Fleet) -> None:
        index = fleet.index
        for run_id in "abc":
            await index.add(listed(run_id))
        await index.want("a", Desired.RUNNING)
        await index.want("b", Desired.STOPPED)
        bus = await Bus.connect(fleet.url, "b", instance="i")
        epoch = await bus.lease.take("first", 30.0)
        await index.want("c", Desired.CANCELLED)
        await index.unlist(["a", "b", "c"])
        assert [run.run_id for run in await index.runs()] == ["a", "b"]
        await bus.lease.release(epoch)
        await bus.close()
        await index.unlist(["a", "b", "c"])
        assert [run.run_id for run in await index.runs()] == ["a"]

    among(steps)


class OneByOne(RunIndex):
    async def runs(self) -> list[Listed]:
        raise AssertionError("all runs are read for one")


def test_one_run_is_found_without_the_others(among) -> None:
    async def steps(fleet: Fleet) -> None:
        assert await fleet.index.find("a") is None
        await fleet.index.add(listed("a"))
        assert await fleet.index.find("a") == listed("a")
        index = await OneByOne.connect(fleet.url)
        second = RunService(FakeLauncher(), state_dir=fleet.root, redis_url=fleet.url, index=index, owner="second")
        async with fleet.service("first") as first:
            run = await first.create(fleet.spec)
            await until(lambda: fleet.is_led(run.id, "first"))
            assert states([await second.get(run.id)]) == ["starting"]
            watch = await second.watch(run.id)
            assert not (await anext(watch)).ends_the_run
            await watch.aclose()
            with pytest.raises(RunNotFound):
                await second.get("no id: /")
        await second.close()
        await index.close()

    among(steps)


def test_telling_of_runs_elsewhere_takes_no_connection_for_each_run_nor_for_each_watcher(among) -> None:
    async def steps(fleet: Fleet) -> None:
        for run_id in "abcde":
            await fleet.index.add(listed(run_id))
            await fleet.index.want(run_id, Desired.RUNNING)
        bus = await Bus.connect(fleet.url, "a", instance="i")
        await bus.runs.create('{"training": {"steps": 7}}', "/runs/a", "")
        await bus.lease.take("third", 60.0)
        await bus.runs.emit(Alert(message="m"))
        index = await RunIndex.connect(fleet.url)
        second = RunService(FakeLauncher(), state_dir=fleet.root, redis_url=fleet.url, index=index, owner="second")
        first = (await second.list())[0]
        assert (first.id, first.step, first.steps_total) == ("a", 0, 7)
        assert set(first.ledger.values()) == {0}

        server = bus.control_server.client
        before = (await server.info("stats"))["total_connections_received"]
        assert len(await second.list()) == 5
        assert (await server.info("stats"))["total_connections_received"] == before

        open_before = len(await server.client_list())
        watches = [await second.watch("a") for _ in range(20)]
        assert [(await anext(watch)).event for watch in watches] == [Alert(message="m")] * 20
        waiting = [asyncio.ensure_future(anext(watch, None)) for watch in watches]
        await asyncio.sleep(0.3)
        assert len(await server.client_list()) <= open_before + 2
        await bus.runs.emit(Alert(message="n"))
        assert [found.event for found in await asyncio.gather(*waiting) if found] == [Alert(message="n")] * 20
        # One that leaves takes nothing from the others; they end with the run.
        await watches.pop().aclose()
        await fleet.index.remove("a")
        await fleet.index.want("a", Desired.STOPPED)
        await bus.runs.delete()
        assert await asyncio.wait_for(asyncio.gather(*(anext(watch, None) for watch in watches)), 30) == [None] * 19
        await second.close()
        await index.close()
        await bus.close()

    among(steps)
