"""The events of one run, in order, for any number of watchers, during the run and after it."""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import NamedTuple

from dapo.bus import BusError
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import Event, StateChanged, known_event
from dapo.host.files import append_line
from dapo.records.folder import RunFolder
from dapo.records.identity import RunDirError
from dapo.records.json_lines import keep_json_lines, read_json_lines

log = logging.getLogger(__name__)

_ANSWER_S = 5.0
"""How long a Redis that may be gone is waited for."""
_BLOCK_S = 1.0
_PAUSE_S = 1.0
_ID = re.compile(r"(\d{1,19})(?:-(\d{1,19}))?")
_TERMINAL = frozenset({"succeeded", "failed", "stopped"})

Position = tuple[int, int]


class WatchedEvent(NamedTuple):
    id: str
    """Milliseconds and a sequence number, as the run's stream in Redis gave it."""
    event: Event

    @property
    def ends_the_run(self) -> bool:
        return isinstance(self.event, StateChanged) and self.event.state in _TERMINAL


def position(event_id: str) -> Position:
    """Ids in their order; "" stands before all. Raises ValueError for what is no id."""
    match = _ID.fullmatch(event_id or "0")
    if match is None:
        raise ValueError(f"{event_id!r} is no event id")
    return int(match[1]), int(match[2] or 0)


def past_events(run_dir: Path) -> "RunEvents":
    """Of a run that has ended, as they were archived."""
    events = RunEvents(run_dir)
    events.close()
    return events


class RunEvents:
    """Where the events of a run are written and read.

    While the run goes on they live on its stream in Redis: all its services write there, and each watcher reads there
    for itself. `archive` copies them to RUN_DIR/events.jsonl as they come, under the same ids; that file outlives Redis
    and this process, and has what the stream has dropped. A watcher reads it first, then the stream, and once the run
    is over the file again, to its end. An event that Redis does not take, because it is gone, is the last in the
    archive, under an id that follows all others.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = RunFolder(run_dir).events
        self._bus: OrchestratorBus | None = None
        self._opened = asyncio.Event()
        self._over = asyncio.Event()
        self._archived = position("0")
        self._ending = False
        self._late: list[WatchedEvent] = []

    def reopen(self) -> None:
        """Go on behind what is archived of an earlier start. Raises RunDirError, OSError."""
        try:
            rows = keep_json_lines(self._path)
        except ValueError as error:
            raise RunDirError(str(error)) from error
        self._archived = position(rows[-1]["id"] if rows else "")

    def open(self, bus: OrchestratorBus) -> None:
        """The stream is there."""
        self._bus = bus
        self._opened.set()

    def leave(self) -> None:
        """The stream is closed: what is told from now on comes last in the archive."""
        self._bus = None

    async def emit(self, event: Event) -> None:
        """Onto the stream. Raises BusError."""
        assert self._bus is not None, "the run's Redis is not open yet"
        await self._bus.runs.emit(event)

    async def tell_end(self, event: StateChanged) -> bool:
        """As `tell`; watches end with it."""
        self._ending = True
        return await self.tell(event)

    async def tell(self, event: Event) -> bool:
        """Like `emit`, for what watchers must hear: at the end, where Redis is gone. Returns whether Redis took it."""
        try:
            async with asyncio.timeout(_ANSWER_S):
                if self._bus is not None:
                    await self.emit(event)
                    return True
        except (BusError, TimeoutError) as error:
            log.warning("an event (%s) could not be written to Redis: %s", event.kind, error)
        self._late.append(WatchedEvent("", event))
        return False

    async def archive(self) -> None:
        """Copy the stream to the archive until the run's last event has passed.

        What cannot be written, e.g. as the disk is full, is tried again.
        """
        await self._opened.wait()
        ended = False
        while not (ended or self._over.is_set()):
            try:
                async for event in self._stream(self._archived):
                    self._keep(event)
                    ended = self._ends(event)
            except OSError as error:
                log.error("%s cannot be written, trying again: %s", self._path, error)
                await asyncio.sleep(_PAUSE_S)

    def close(self) -> None:
        """The run is over: what Redis did not take goes to the archive, and watchers read that to its end."""
        milliseconds = max(self._archived[0] + 1, time.time_ns() // 1_000_000)
        self._late = [event._replace(id=f"{milliseconds}-{at}") for at, event in enumerate(self._late)]
        try:
            for event in self._late:
                self._keep(event)
        except OSError as error:  # Watchers are told by this process all the same.
            log.error("the end of %s cannot be written: %s", self._path, error)
        else:
            self._late = []
        self._over.set()
        self._opened.set()

    def watch(self, after: str) -> AsyncIterator[WatchedEvent]:
        """Events after the one with id `after` ("" or "0": all), until the run is over. ValueError for a bad id."""
        return self._follow(position(after))

    async def _follow(self, seen: Position) -> AsyncIterator[WatchedEvent]:
        await self._opened.wait()
        for event in self._past(seen):
            seen = position(event.id)
            yield event
        async for event in self._stream(seen):
            seen = position(event.id)
            yield event
        # Who sees the watch end finds no worker and no server of the run any more.
        await self._over.wait()
        for event in self._past(seen):
            yield event

    async def _stream(self, after: Position) -> AsyncIterator[WatchedEvent]:
        """From Redis, until the run's last event or until the run is over."""
        seen = after
        while not self._over.is_set() and self._bus is not None:
            try:
                found = await self._bus.runs.read_events("{}-{}".format(*seen), block_s=_BLOCK_S)
            except BusError as error:
                if self._over.is_set():
                    return
                log.warning("the run's events cannot be read, trying again: %s", error)
                await asyncio.sleep(_PAUSE_S)
                continue
            for event in (WatchedEvent(*one) for one in found):
                seen = position(event.id)
                yield event
                if self._ends(event):
                    return

    def _ends(self, event: WatchedEvent) -> bool:
        """Whether it is the last; the end of an earlier start is not."""
        return self._ending and event.ends_the_run

    def _keep(self, event: WatchedEvent) -> None:
        """All of a line or, where it cannot be written, nothing."""
        line = json.dumps({"id": event.id, "kind": event.event.kind, "data": event.event.data()}) + "\n"
        append_line(self._path, line.encode())
        self._archived = position(event.id)

    def _past(self, after: Position) -> Iterator[WatchedEvent]:
        """What is archived after that, and what could not be."""
        if self._path.exists():
            for line in read_json_lines(self._path):
                event = known_event(line["kind"], line["data"])
                if event is not None and position(line["id"]) > after:
                    yield WatchedEvent(line["id"], event)
        if self._over.is_set():
            yield from (event for event in self._late if position(event.id) > after)
