"""The events of one run, in order, for any number of watchers, during the run and after it."""

import asyncio
import json
import logging
import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from dapo.bus import BusError
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import Alert, Event, StateChanged, known_event
from dapo.host.files import append_line
from dapo.records.folder import RunFolder
from dapo.records.identity import RunDirError
from dapo.records.json_lines import keep_json_lines, lines_backwards, parse_line
from services.orchestrator.records.samples import Secure
from services.orchestrator.runs.questions import answering, read_folder

log = logging.getLogger(__name__)

_ANSWER_S = 5.0
"""How long a Redis that may be gone is waited for."""
_BLOCK_S = 1.0
_PAUSE_S = 1.0
_RECENT = 256
"""Newest events of a run's stream that watchers who are not far behind find without asking Redis."""
_ID = re.compile(r"(\d{1,19})(?:-(\d{1,19}))?")
_TERMINAL = frozenset({"succeeded", "failed", "stopped", "cancelled"})

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


class _Tail:
    """The end of a run's stream, read once for all who wait for what comes."""

    def __init__(self, bus: OrchestratorBus) -> None:
        self._bus = bus
        self._recent: deque[tuple[Position, WatchedEvent]] = deque(maxlen=_RECENT)
        """All events after `_begin`, up to `_end`."""
        self._begin: Position | None = None
        self._end: Position = (0, 0)
        self._reading: asyncio.Task[None] | None = None

    async def after(self, seen: Position) -> list[WatchedEvent]:
        """Some of the events after `seen`, in order; none where none came for a second. Raises BusError."""
        if self._begin is None:
            self._begin = self._end = seen
        if seen < self._begin:
            return [WatchedEvent(*one) for one in await self._read(seen)]
        if seen >= self._end:
            if self._reading is None or self._reading.done():
                self._reading = asyncio.create_task(self._extend())
                # Its error is told to those who wait; where they all left, nobody misses it.
                self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.shield(self._reading)
        found = list(takewhile(lambda one: one[0] > seen, reversed(self._recent)))
        return [event for _, event in reversed(found)]

    async def _extend(self) -> None:
        for one in await self._read(self._end):
            if len(self._recent) == _RECENT:
                self._begin = self._recent[0][0]
            event = WatchedEvent(*one)
            self._end = position(event.id)
            self._recent.append((self._end, event))

    async def _read(self, after: Position) -> list[tuple[str, Event]]:
        return await self._bus.runs.read_events("{}-{}".format(*after), block_s=_BLOCK_S)


def past_events(run_dir: Path) -> "RunEvents":
    """Of a run that has ended, as they were archived."""
    events = RunEvents(run_dir)
    events.close()
    return events


class RunEvents:
    """Where the events of a run are written and read.

    While the run goes on they live on its stream in Redis: all its services write there, and it is read once for all
    who watch it here. `archive` copies them to RUN_DIR/events.jsonl as they come, under the same ids; that file
    outlives Redis and this process, and has what the stream has dropped. A watcher reads it first, then the stream, and
    once the run is over the file again, to its end. An event that Redis does not take, because it is gone, is the last
    in the archive, under an id that follows all others.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = RunFolder(run_dir).events
        self._bus: OrchestratorBus | None = None
        self._tail: _Tail | None = None
        self._opened = asyncio.Event()
        self._over = asyncio.Event()
        self._archived = position("0")
        self._ending = False
        self._late: list[WatchedEvent] = []
        self._secure: Secure | None = None
        self.alerts: Counter[tuple[str, str]] = Counter()
        """Those that were archived here, by severity and cause."""

    async def reopen(self, secure: Secure) -> None:
        """Go on behind what is archived of an earlier start. `secure` as in `open`. Raises RunDirError, OSError."""
        await secure()
        try:
            rows = await asyncio.to_thread(keep_json_lines, self._path)
        except ValueError as error:
            raise RunDirError(str(error)) from error
        self._archived = position(rows[-1]["id"] if rows else "")

    def open(self, bus: OrchestratorBus, secure: Secure | None = None) -> None:
        """The stream is there. `secure` is awaited before the archive is written."""
        self._bus, self._tail, self._secure = bus, _Tail(bus), secure
        self._opened.set()

    @property
    def archived(self) -> str:
        """Id of the newest event in the archive."""
        return "{}-{}".format(*self._archived)

    async def wait_opened(self) -> None:
        """Return once the stream is open, or the run is over."""
        await self._opened.wait()

    def leave(self) -> None:
        """The stream is closed: what is told from now on comes last in the archive."""
        self._bus = self._tail = None

    def abandon(self, archiving: "asyncio.Task[None] | None") -> None:
        """As `leave`, where others go on with the run: the archive is theirs."""
        self._bus, self._tail, self._late = None, None, []
        if archiving is not None:
            archiving.cancel()

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
                    if self._secure is not None:
                        await self._secure()
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

    def watch(self, after: str, *, follow: bool = True) -> AsyncIterator[WatchedEvent]:
        """Events after the one with id `after` ("" or "0": all), until the run is over or, without `follow`, those that
        there are. Raises ValueError for a bad id, and while it is iterated FolderUnreadable and, without `follow`,
        NoAnswer."""
        seen = position(after)
        return self._follow(seen) if follow else self._so_far(seen)

    async def _so_far(self, seen: Position) -> AsyncIterator[WatchedEvent]:
        """Of a run that has not begun there are none."""
        for event in await read_folder(partial(self._past, seen)):
            seen = position(event.id)
            yield event
        while found := await self._newer(seen):
            for event in found:
                seen = position(event.id)
                yield event

    async def _newer(self, seen: Position) -> list[WatchedEvent]:
        """Some of those in Redis after `seen`, in order; none where there is none now. Raises NoAnswer."""
        if self._bus is None:
            return []
        async with answering():
            return [WatchedEvent(*one) for one in await self._bus.runs.read_events("{}-{}".format(*seen), block_s=0)]

    async def _follow(self, seen: Position) -> AsyncIterator[WatchedEvent]:
        await self._opened.wait()
        for event in await read_folder(partial(self._past, seen)):
            seen = position(event.id)
            yield event
        async for event in self._stream(seen):
            seen = position(event.id)
            yield event
        # Who sees the watch end finds no worker and no server of the run any more.
        await self._over.wait()
        for event in await read_folder(partial(self._past, seen)):
            yield event

    async def _stream(self, after: Position) -> AsyncIterator[WatchedEvent]:
        """From Redis, until the run's last event or until the run is over."""
        seen = after
        while not self._over.is_set() and self._tail is not None:
            try:
                found = await self._tail.after(seen)
            except BusError as error:
                if self._over.is_set():
                    return
                log.warning("the run's events cannot be read, trying again: %s", error)
                await asyncio.sleep(_PAUSE_S)
                continue
            for event in found:
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
        if isinstance(event.event, Alert):
            self.alerts[event.event.severity or "warning", event.event.cause or ""] += 1

    def _past(self, after: Position) -> list[WatchedEvent]:
        """What is archived after that, and what could not be; what comes before is not read. Raises ValueError for a
        damaged archive, OSError."""
        found: list[WatchedEvent] = []
        for at, line in lines_backwards(self._path) if self._path.exists() else ():
            row = parse_line(self._path, at, line)
            if position(row["id"]) <= after:
                break
            event = known_event(row["kind"], row["data"])
            if event is not None:
                found.append(WatchedEvent(row["id"], event))
        late = self._late if self._over.is_set() else []
        return found[::-1] + [event for event in late if position(event.id) > after]
