"""The event log: order, resuming, the end."""

import asyncio

import pytest

from services.orchestrator.runs import events
from services.orchestrator.runs.events import Event, EventLog


async def collect(log: EventLog, after: str = "") -> list[str]:
    return [event.id async for event in log.watch(after)]


def test_watchers_see_all_events_during_the_run_and_after_it():
    async def scenario():
        log = EventLog()
        await log.append(Event("1-0", "state", {}))
        early = asyncio.create_task(collect(log))
        await asyncio.sleep(0)
        await log.append(Event("1-1", "step", {}))
        await log.append(Event("2-0", "step", {}))
        await log.close()
        return await early, await collect(log), await collect(log, "1-1"), await collect(log, "9-0")

    assert asyncio.run(scenario()) == (["1-0", "1-1", "2-0"], ["1-0", "1-1", "2-0"], ["2-0"], [])


def test_ids_are_compared_as_numbers():
    async def scenario():
        log = EventLog()
        for event_id in ("9-0", "10-0", "10-10"):
            await log.append(Event(event_id, "step", {}))
        await log.close()
        return await collect(log, "10-2")

    assert asyncio.run(scenario()) == ["10-10"]


@pytest.mark.parametrize("after", ["x", "1-2-3", "-"])
def test_a_bad_cursor_is_refused_at_once(after):
    with pytest.raises(ValueError, match=r".*"):
        EventLog().watch(after)


def test_the_oldest_events_go_first(monkeypatch):
    monkeypatch.setattr(events, "_CAPACITY", 3)

    async def scenario():
        log = EventLog()
        for i in range(1, 6):
            await log.append(Event(f"{i}-0", "step", {}))
        await log.close()
        return await collect(log), await collect(log, "4-0")

    assert asyncio.run(scenario()) == (["3-0", "4-0", "5-0"], ["5-0"])
