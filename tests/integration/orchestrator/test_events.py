"""The events of a run: order, resuming, the archive, a Redis that breaks off."""

import asyncio
import errno
import json
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.events import StateChanged, StepFinished
from dapo.records.json_lines import parse_line
from services.orchestrator.runs import events as events_module
from services.orchestrator.runs.events import RunEvents, WatchedEvent, past_events
from services.orchestrator.runs.questions import FolderUnreadable
from tests.support.waiting import eventually

RUN = "events"


def play(valkey: EmbeddedValkey, folder: Path, scenario: Callable[[Bus, RunEvents], Awaitable[None]]) -> None:
    async def main() -> None:
        bus = await Bus.connect(valkey.url, RUN)
        try:
            async with asyncio.timeout(30):
                await scenario(bus, RunEvents(folder))
        finally:
            await bus.close()

    asyncio.run(main())


async def collect(events: RunEvents, after: str = "") -> list[tuple[str, dict]]:
    return [(event_id, event.data()) async for event_id, event in events.watch(after)]


def test_watchers_see_all_events_during_the_run_and_after_it(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def scenario(bus: Bus, events: RunEvents) -> None:
        first = asyncio.create_task(collect(events))  # before there is a stream
        await asyncio.sleep(0)
        events.open(bus)
        archive = asyncio.create_task(events.archive())
        for step in range(3):
            await events.emit(StepFinished(row={"step": step}))
        second = asyncio.create_task(collect(events))
        assert await events.tell_end(StateChanged(state="succeeded", message=""))
        await archive
        events.close()
        seen = await first
        assert [data for _, data in seen] == [*({"step": n} for n in range(3)), {"state": "succeeded", "message": ""}]
        assert await second == seen
        assert await collect(events) == seen
        assert await collect(events, seen[1][0]) == seen[2:]
        assert await collect(events, "99999999999999-0") == []
        lines = (tmp_path / "events.jsonl").read_text().splitlines()
        assert [json.loads(line)["id"] for line in lines] == [event_id for event_id, _ in seen]

    play(valkey, tmp_path, scenario)


def test_what_there_is_can_be_read_without_waiting_for_more(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def so_far(events: RunEvents, after: str = "") -> list[tuple[str, dict]]:
        return [(one.id, one.event.data()) async for one in events.watch(after, follow=False)]

    async def scenario(bus: Bus, events: RunEvents) -> None:
        assert await so_far(events) == [], "the run waits for room"
        events.open(bus)
        assert await so_far(events) == []
        for step in range(250):  # More than Redis is asked for at once; nothing is archived yet.
            await events.emit(StepFinished(row={"step": step}))
        seen = await so_far(events)
        assert [data["step"] for _, data in seen] == list(range(250))
        archive = asyncio.create_task(events.archive())
        await eventually(lambda: events.archived == seen[-1][0])
        await events.emit(StepFinished(row={"step": 250}))
        assert [data["step"] for _, data in await so_far(events, seen[247][0])] == [248, 249, 250]
        await events.tell_end(StateChanged(state="failed", message=""))
        await archive
        events.close()
        assert await so_far(events) == await collect(events)
        assert len(await so_far(past_events(tmp_path))) == 252

    play(valkey, tmp_path, scenario)


def test_events_go_on_after_their_connection_broke(
    valkey: EmbeddedValkey, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(bus: Bus, events: RunEvents) -> None:
        events.open(bus)
        watched = events.watch("")
        await events.emit(StepFinished(row={"step": 1}))
        assert (await anext(watched)).event.data() == {"step": 1}
        waiting = asyncio.ensure_future(anext(watched))
        await asyncio.sleep(0.2)  # now it waits in a blocking read
        await bus.control_server.client.client_kill_filter(_type="normal", skipme=True)
        await asyncio.sleep(0)
        await events.emit(StepFinished(row={"step": 2}))
        assert (await waiting).event.data() == {"step": 2}
        await watched.aclose()

    play(valkey, tmp_path, scenario)
    assert "cannot be read" not in caplog.text


def test_what_redis_does_not_take_comes_last(tmp_path: Path) -> None:
    async def scenario(bus: Bus, events: RunEvents) -> None:
        events.open(bus)
        archive = asyncio.create_task(events.archive())
        await events.emit(StepFinished(row={"step": 1}))
        live = asyncio.create_task(collect(events))
        await asyncio.sleep(0.3)
        server.kill()
        assert not await events.tell_end(StateChanged(state="failed", message="Redis is gone"))
        archive.cancel()
        events.close()
        seen = await live
        assert [data for _, data in seen] == [{"step": 1}, {"state": "failed", "message": "Redis is gone"}]
        assert await collect(events) == seen

    with EmbeddedValkey(tmp_path / "valkey", memory_mib=64) as server:
        play(server, tmp_path, scenario)


def test_a_run_without_redis_tells_its_end(tmp_path: Path) -> None:
    async def scenario() -> None:
        events = RunEvents(tmp_path)
        early = asyncio.create_task(collect(events))
        await asyncio.sleep(0)
        assert not await events.tell_end(StateChanged(state="failed", message="no data"))
        events.close()
        assert [data for _, data in await early] == [{"state": "failed", "message": "no data"}]

    asyncio.run(scenario())


def test_a_full_disk_hides_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    async def scenario() -> None:
        events = RunEvents(tmp_path)
        monkeypatch.setattr(events, "_keep", refuse)
        await events.tell_end(StateChanged(state="failed", message="full"))
        events.close()
        assert [data for _, data in await collect(events)] == [{"state": "failed", "message": "full"}]

    asyncio.run(scenario())


def test_what_the_stream_has_dropped_is_in_the_archive(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def scenario(bus: Bus, events: RunEvents) -> None:
        events.open(bus)
        archive = asyncio.create_task(events.archive())
        for step in range(300):
            await events.emit(StepFinished(row={"step": step}))
        await eventually(lambda: len((tmp_path / "events.jsonl").read_text().splitlines()) == 300)
        await bus.control_server.client.xtrim(bus.keys.events, maxlen=10, approximate=False)
        watching = asyncio.create_task(collect(events))
        await events.tell_end(StateChanged(state="stopped"))
        await archive
        events.close()
        assert [data.get("step") for _, data in await watching] == [*range(300), None]

    play(valkey, tmp_path, scenario)


def test_an_archive_that_could_not_be_written_for_a_while_is_whole(
    valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(bus: Bus, events: RunEvents) -> None:
        keep, refused = events._keep, []

        def refuse_twice(event: WatchedEvent) -> None:
            if len(refused) < 2:
                refused.append(event)
                raise OSError(errno.ENOSPC, "no space left")
            keep(event)

        monkeypatch.setattr(events, "_keep", refuse_twice)
        monkeypatch.setattr(events_module, "_PAUSE_S", 0.1)
        (tmp_path / "events.jsonl").write_text("")
        events.open(bus)
        archive = asyncio.create_task(events.archive())
        for step in range(3):
            await events.emit(StepFinished(row={"step": step}))
        await events.tell_end(StateChanged(state="stopped"))
        await archive
        events.close()
        assert [data.get("step") for _, data in await collect(events)] == [0, 1, 2, None]

    play(valkey, tmp_path, scenario)


@pytest.mark.parametrize("after", ["x", "1-2-3", "-", "99999999999999999999-0"])
def test_a_bad_cursor_is_refused_at_once(after: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no event id"):
        RunEvents(tmp_path).watch(after)


def test_a_long_archive_holds_up_nothing_else_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "events.jsonl").write_text(json.dumps({"id": "1-0", "kind": "step", "data": {"step": 1}}) + "\n")
    readers: list[int] = []

    def read(path: Path, at: int, line: bytes) -> dict:
        readers.append(threading.get_ident())
        return parse_line(path, at, line)

    monkeypatch.setattr(events_module, "parse_line", read)
    assert asyncio.run(collect(past_events(tmp_path))) == [("1-0", {"step": 1})]
    assert readers
    assert threading.get_ident() not in readers, "the event loop's thread"


def test_many_watchers_read_the_stream_together_also_those_that_are_far_behind(
    valkey: EmbeddedValkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "_RECENT", 4)

    async def scenario(bus: Bus, events: RunEvents) -> None:
        asked: list[str] = []
        reading = bus.runs.read_events

        async def read(after: str, *, block_s: float) -> list:
            asked.append(after)
            return await reading(after, block_s=block_s)

        monkeypatch.setattr(bus.runs, "read_events", read)
        events.open(bus)
        archive = asyncio.create_task(events.archive())
        watching = [asyncio.create_task(collect(events)) for _ in range(50)]
        slow, told = events.watch(""), []
        for step in range(20):
            await events.emit(StepFinished(row={"step": step}))
            if step == 10:
                told.append(await anext(slow))  # Then it is left behind.
        await events.tell_end(StateChanged(state="succeeded", message=""))
        await archive
        # One after the other at worst, beside the few that nobody finds anything for.
        assert len(asked) <= 2 * 21
        events.close()
        seen = await watching[0]
        assert [data for _, data in seen] == [*({"step": n} for n in range(20)), {"state": "succeeded", "message": ""}]
        assert await asyncio.gather(*watching) == [seen] * 50
        assert [(event_id, event.data()) for event_id, event in [*told, *[one async for one in slow]]] == seen

    play(valkey, tmp_path, scenario)


def test_what_a_watcher_has_seen_is_not_read_again(tmp_path: Path) -> None:
    """Or opening many watches of a long run would hold up its service: what was seen long ago may be of any length."""
    archive = tmp_path / "events.jsonl"
    archive.write_text(
        "not JSON\n"
        + "".join(f'{{"id": "{n}-0", "kind": "step", "data": {{"row": {{"step": {n}}}}}}}\n' for n in (1, 2))
    )
    assert asyncio.run(collect(past_events(tmp_path), "1-0")) == [("2-0", {"row": {"step": 2}})]
    with pytest.raises(FolderUnreadable, match=r"events\.jsonl:1 is not JSON"):
        asyncio.run(collect(past_events(tmp_path)))
