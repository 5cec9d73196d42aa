"""Runs that another instance of the service leads, or that one is to lead, as its Redis and the shared folder tell of
them."""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dapo.bus import Bus, BusError
from dapo.bus.index import Desired, Listed, Progress, Record, RunIndex
from dapo.bus.keys import is_run_id
from dapo.host.remembered import Remembered
from dapo.records.folder import RunFolder
from dapo.records.identity import RunDirError, read_identity
from dapo.spec.load import load_spec
from dapo.spec.problem import SpecError
from dapo.v1 import run_pb2 as pb
from services.orchestrator.fleet.errors import RunConflict
from services.orchestrator.queue.entries import spec_file
from services.orchestrator.queue.line import LEFT, Told
from services.orchestrator.runs.events import RunEvents, WatchedEvent, position
from services.orchestrator.runs.questions import NoAnswer, answering

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_POLL_S = 0.5
_WISH_S = 1.0
_FILES = RunFolder(Path())
_MOST_REMEMBERED = 1000
"""Runs that wait or go on; a number each."""


class Open(NamedTuple):
    bus: Bus


@dataclass
class _Watched:
    """A run's events, which are read once for all who watch it."""

    events: RunEvents
    looking: asyncio.Task[None]
    watchers: int = 0


class Elsewhere:
    """Answers for the runs on one server. All methods raise NoAnswer where that does not answer in time."""

    def __init__(self, index: RunIndex, told: Callable[[str], Told | None]) -> None:
        """`told`: what this instance says of a run that nobody leads."""
        self._index = index
        self._told = told
        self._instance = secrets.token_hex(6)
        self._watched: dict[str, _Watched] = {}
        self._wishes: set[asyncio.Task[None]] = set()
        told_by = (_FILES.identity.name, _FILES.next_spec.name, _FILES.summary.name)
        self._next = Remembered(_next_steps, told_by, _MOST_REMEMBERED)

    async def _record(self, run_id: str) -> Record:
        async with answering():
            return (await self._index.read([run_id]))[run_id]

    async def leader(self, run_id: str) -> str | None:
        """Who leads the run; nobody one that there cannot be."""
        return (await self._record(run_id)).holder if is_run_id(run_id) else None

    async def goes_on(self, run_id: str) -> bool:
        """Whether somebody leads the run or is to lead it."""
        return is_run_id(run_id) and _goes_on(await self._record(run_id))

    async def find(self, run_id: str) -> tuple[Listed, Record] | None:
        """A run, where somebody leads it or is to lead it."""
        if not is_run_id(run_id):
            return None
        async with answering():
            run, record = await self._index.find(run_id), await self._record(run_id)
        return None if run is None or not _goes_on(record) else (run, record)

    async def under_way(self) -> dict[str, tuple[Listed, Record]]:
        """The runs that somebody leads or is to lead, by id."""
        async with answering():
            runs = {run.run_id: run for run in await self._index.runs()}
            records = await self._index.read(list(runs))
        found = {run_id: (runs[run_id], record) for run_id, record in records.items() if _goes_on(record)}
        self._next.keep_only({run.run_dir for run, _ in found.values()})
        return found

    async def view(self, run: Listed, record: Record) -> pb.Run:
        """One without a leader is `queued` or `starting`, and says what keeps this instance from leading it."""
        return (await self._views({run.run_id: (run, record)}))[0]

    async def views(self, but: Collection[str]) -> list[pb.Run]:
        """Of all runs that somebody leads or is to lead, by id, but these."""
        found = await self.under_way()
        return await self._views({run_id: one for run_id, one in found.items() if run_id not in but})

    async def _views(self, runs: Mapping[str, tuple[Listed, Record]]) -> list[pb.Run]:
        async with answering():
            found = await self._index.progress(list(runs))
        folders = {run_id: run.run_dir for run_id, (run, _) in runs.items()}
        steps = await asyncio.to_thread(lambda: {run_id: self._next_steps(at) for run_id, at in folders.items()})
        return [self._view(*one, found[run_id], steps[run_id]) for run_id, one in runs.items()]

    def _view(self, run: Listed, record: Record, progress: Progress, steps: int | None) -> pb.Run:
        """`steps`: of the spec with which it is to go on, if that is another one."""
        state, message, place = record.state or "starting", record.message, None
        if record.holder is None:
            told = self._told(run.run_id)
            if told is None:  # this instance has not looked since
                told = Told("queued", message, None) if state == "queued" else Told("starting", LEFT, None)
            state, message, place = told
        if steps is None:
            # There is no spec yet while its leader reads the inputs, where Redis was emptied before.
            steps = 0 if progress.spec is None else json.loads(progress.spec)["training"]["steps"]
        return pb.Run(
            id=run.run_id,
            state=f"RUN_STATE_{state.upper()}",
            run_dir=run.run_dir,
            message=message,
            queue_position=place,
            step=progress.trained,
            steps_total=steps,
            created_at=run.created_at,
            ledger=progress.ledger,
        )

    def _next_steps(self, run_dir: str) -> int | None:
        """Of the spec with which a run waits to go on; None where that is the one that it has."""
        try:
            return self._next.get(run_dir)
        except (RunDirError, SpecError, OSError):  # another service is at work there
            return None

    async def refuse(self, run_id: str) -> None:
        """Raises RunConflict, naming the leader, where somebody leads the run."""
        if (holder := await self.leader(run_id)) is not None:
            raise RunConflict(f"run {run_id} is led by {holder}: ask that service, or stop the run first")

    def reading(self, run_id: str) -> Open:
        """The run's bus, for questions."""
        return Open(self._bus(run_id))

    async def want_ended(self, run_id: str, desired: Desired) -> None:
        """Nobody is to go on with the run, and whoever leads it is to end it, in order (STOPPED) or at once
        (CANCELLED)."""
        async with answering():
            await self._index.want(run_id, desired)

    async def insist_on_end(self, run_id: str, desired: Desired) -> None:
        """As `want_ended`, however long Redis takes to answer; returns after a moment, or once it has."""
        wish = asyncio.create_task(self._insist_on_end(run_id, desired), name=run_id)
        self._wishes.add(wish)
        wish.add_done_callback(self._wishes.discard)
        await asyncio.wait({wish}, timeout=_WISH_S)

    async def settle(self, run_id: str) -> None:
        """Return once Redis knows that the run was to end: the wish of a stop must not come after that of whoever
        resumes it. Raises NoAnswer after a moment."""
        if wishes := [wish for wish in self._wishes if wish.get_name() == run_id]:
            _, pending = await asyncio.wait(wishes, timeout=_WISH_S)
            if pending:
                raise NoAnswer(f"run {run_id} is to end, which Redis does not know yet: ask again")

    def close(self) -> None:
        """What Redis has not answered to is wanted no more."""
        for wish in self._wishes:
            wish.cancel()

    async def _insist_on_end(self, run_id: str, desired: Desired) -> None:
        while True:
            try:
                return await self.want_ended(run_id, desired)
            except NoAnswer as error:
                log.warning("run %s is to end, which Redis does not know yet: %s", run_id, error)
                await asyncio.sleep(_LOOK_S)

    async def until_ended(self, run_id: str, within_s: float) -> None:
        """Return once nobody leads the run. Raises RunConflict, naming the leader, after so long."""
        deadline = time.monotonic() + within_s
        while (holder := await self.leader(run_id)) is not None:
            if time.monotonic() >= deadline:
                raise RunConflict(f"run {run_id} is to end, but {holder}, which leads it, has not ended it yet")
            await asyncio.sleep(_POLL_S)

    async def forget(self, run_id: str) -> None:
        async with answering():
            await self._index.remove(run_id)

    def watch(self, run: Listed, after: str, *, follow: bool) -> AsyncIterator[WatchedEvent]:
        """Its events after that one, with `follow` until nobody leads it or is to lead it. Raises ValueError for a bad
        id."""
        position(after)
        return self._watch(run, after, follow=follow)

    async def _watch(self, run: Listed, after: str, *, follow: bool) -> AsyncIterator[WatchedEvent]:
        watched = self._watched.get(run.run_id)
        if watched is None:
            events = RunEvents(Path(run.run_dir))
            events.open(self._bus(run.run_id))
            looking = asyncio.create_task(self._close_when_over(run.run_id, events))
            watched = self._watched[run.run_id] = _Watched(events, looking)
        watched.watchers += 1
        try:
            async for event in watched.events.watch(after, follow=follow):
                yield event
        finally:
            watched.watchers -= 1
            if not watched.watchers:
                watched.looking.cancel()
                self._forget_watched(run.run_id, watched.events)

    async def _close_when_over(self, run_id: str, events: RunEvents) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                record = (await self._index.read([run_id]))[run_id]
            except BusError as error:
                log.warning("run %s cannot be seen: %s", run_id, error)
                continue
            if not _goes_on(record):
                # Who watches it from now on sees how it goes on, should it do so.
                self._forget_watched(run_id, events)
                events.close()
                return

    def _forget_watched(self, run_id: str, events: RunEvents) -> None:
        if (watched := self._watched.get(run_id)) is not None and watched.events is events:
            del self._watched[run_id]

    def _bus(self, run_id: str) -> Bus:
        """On the connections of the index."""
        return Bus(self._index.server, self._index.server, run_id, self._instance)


def _goes_on(record: Record) -> bool:
    return record.holder is not None or record.desired == Desired.RUNNING


def _next_steps(folder: Path) -> int | None:
    files = RunFolder(folder)
    found = spec_file(folder, read_identity(folder))
    return None if found == files.spec else load_spec(found).training.steps
