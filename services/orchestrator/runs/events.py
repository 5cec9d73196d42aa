"""The events of one run, in order, for any number of watchers, during the run and after it."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

_CAPACITY = 20_000


class Event(NamedTuple):
    id: str
    kind: str
    data: dict[str, Any]


def _position(event_id: str) -> tuple[int, ...]:
    """Stream ids ("milliseconds-sequence") in their order. Raises ValueError for anything else."""
    parts = tuple(int(part) for part in event_id.split("-"))
    if len(parts) > 2:
        raise ValueError(event_id)
    return parts


class EventLog:
    """Keeps the last events (20,000) and wakes who waits. `close` ends every watch once it has seen them all."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._dropped = 0
        self._changed = asyncio.Condition()
        self._closed = False

    async def append(self, event: Event) -> None:
        async with self._changed:
            self._events.append(event)
            if len(self._events) > _CAPACITY:
                self._dropped += len(self._events) - _CAPACITY
                del self._events[: len(self._events) - _CAPACITY]
            self._changed.notify_all()

    async def close(self) -> None:
        async with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _start(self, after: str) -> int:
        if after in ("", "0"):
            return self._dropped
        bound = _position(after)
        return self._dropped + sum(1 for event in self._events if _position(event.id) <= bound)

    def watch(self, after: str) -> AsyncIterator[Event]:
        """Events after the one with id `after` ("" or "0": all), until the log is closed. ValueError for a bad id."""
        return self._follow(self._start(after))

    async def _follow(self, seen: int) -> AsyncIterator[Event]:
        while True:
            async with self._changed:
                while not self._closed and seen >= self._dropped + len(self._events):
                    await self._changed.wait()
                seen = max(seen, self._dropped)
                fresh = self._events[seen - self._dropped :]
                closed = self._closed
            for event in fresh:
                yield event
            seen += len(fresh)
            if closed and not fresh:
                return
