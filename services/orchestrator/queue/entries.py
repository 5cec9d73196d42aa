"""Runs that wait for room, where they survive: in their folders and in Redis. One that waits needs nothing else."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from dapo.bus import Bus
from dapo.bus.errors import LeaseHeld
from dapo.bus.index import Desired, Listed, RunIndex
from dapo.contracts.events import Alert, StateChanged
from dapo.records.folder import RunFolder
from dapo.records.identity import RunIdentity, read_identity
from dapo.spec.run import RunSpec
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs import completion
from services.orchestrator.runs.events import RunEvents
from services.orchestrator.runs.outcome import RunOutcome, Standing, has_end
from services.orchestrator.runs.questions import NoAnswer, answering
from services.orchestrator.runs.tenure import LEASE_S, Tenure

_ENDING_S = 30.0


class AlreadyLed(RuntimeError):
    """Somebody leads the run, or has it wait already."""


def spec_file(folder: Path, identity: RunIdentity) -> Path:
    """With which a run starts or goes on. What a request left there that came to nothing is not asked for: the run has
    an end then."""
    files = RunFolder(folder)
    if files.next_spec.exists() and (identity.queued_at or not has_end(folder)):
        return files.next_spec
    return files.spec


def _waits(identity: RunIdentity, desired: str | None) -> bool:
    return identity.queued_at != "" and desired == Desired.RUNNING


class Entries:
    """Of the runs of one service. Whatever changes one is done as its leader, for a moment, so that no two do it.

    Restart: what was cut short in `add` is a run without an end, which is resumed by hand; in `conclude`, one that
    waits on.
    """

    def __init__(self, index: RunIndex, url: str, owner: str, workers_stay: bool = False) -> None:
        """`url`: of the server that the index is on. `owner`: the service's name as a leader. `workers_stay`: those of
        the leader before go on where a run is led again."""
        self._index = index
        self._url = url
        self._owner = owner
        self._workers_stay = workers_stay

    async def add(self, recorder: Recorder, spec: RunSpec, reason: str, *, resumed: bool) -> None:
        """Have a run wait, with whose folder `recorder` works: a new one, or one that is to go on with `spec`.

        Raises AlreadyLed, NoAnswer, RunDirError, OSError.
        """
        identity = recorder.identity
        async with answering(), self._term(identity.run_id) as (bus, tenure):
            recorder.guard(tenure.secure)
            record = await bus.runs.read()
            if _waits(await asyncio.to_thread(read_identity, recorder.run_dir), record.get("desired")):
                raise AlreadyLed("it waits for room already")
            if "spec" not in record:
                # Of a run that goes on, a Redis that has lost it does not have the latest word.
                known = (spec.model_dump_json(), str(recorder.run_dir), identity.created_at)
                await bus.runs.create(*known, "" if resumed else identity.history)
            if resumed:
                await recorder.begin()
                await recorder.keep_next_spec(spec)
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            await recorder.keep_identity(identity._replace(begun=resumed, queued_at=now, taken_up=True))
            await bus.runs.set_state("queued", reason, tenure.epoch)
            await bus.runs.emit(StateChanged(state="queued", message=reason))
            await self._index.add(Listed(identity.run_id, str(recorder.run_dir), identity.created_at, spec.name))
            await bus.runs.want(Desired.RUNNING, tenure.epoch)

    async def holds(self, folder: Path) -> bool:
        """Whether the run waits, whichever instance has it wait. Raises NoAnswer, RunDirError, OSError."""
        identity = await asyncio.to_thread(read_identity, folder)
        async with answering():
            return _waits(identity, (await self._index.read([identity.run_id]))[identity.run_id].desired)

    async def start(self, run_id: str, lead: Callable[[], Awaitable[None]]) -> bool:
        """Have a run led that no other service starts meanwhile: the lease is this one's, which `lead` goes on with.

        Whether it was: not one that somebody leads by now, or that has left the queue. Raises NoAnswer, and what `lead`
        raises; then the lease is free.
        """
        async with answering():
            bus = await self._connect(run_id)
        led, epoch = False, None
        try:
            async with answering():
                try:
                    epoch = await bus.lease.take(self._owner, LEASE_S, workers_stay=self._workers_stay)
                except LeaseHeld:
                    return False
                wanted = (await bus.runs.read()).get("desired")
            if wanted == Desired.RUNNING:
                await lead()
                led = True
        finally:
            if epoch is not None and not led:
                with suppress(NoAnswer):  # else it lapses by itself
                    async with answering():
                        await bus.lease.release(epoch)
            await asyncio.shield(bus.close())
        return led

    async def conclude(self, folder: Path, spec: RunSpec, outcome: RunOutcome, *, shared: bool) -> None:
        """Write the end of a run that waits; it has what it had before. `shared` as in FolderLock.

        Raises AlreadyLed, BusError, TimeoutError, RunDirError, OSError.
        """
        recorder = Recorder.reopen(folder, spec, shared=shared)
        try:
            async with asyncio.timeout(_ENDING_S), self._term(recorder.identity.run_id) as (bus, tenure):
                recorder.guard(tenure.secure)
                await recorder.begin()
                await recorder.keep_next_spec(None)
                await recorder.keep_identity(recorder.identity._replace(begun=True, queued_at=""))
                events = RunEvents(folder)
                await events.reopen(tenure.secure)
                events.open(bus, tenure.secure)
                archiving = asyncio.create_task(events.archive())
                standing = Standing()
                await standing.read_ledger(bus)
                drawing = asyncio.ensure_future(asyncio.to_thread(recorder.draw))
                files = (recorder, outcome, standing, 0, 0.0)
                await completion.write_end(*files, None, drawing)
                await completion.tell_end(outcome, events, archiving, bus, tenure.epoch)
                events.leave()
                events.close()
        finally:
            recorder.close()

    async def say(self, run_id: str, message: str) -> None:
        """To those that watch the run. Raises NoAnswer."""
        async with answering():
            bus = await self._connect(run_id)
            try:
                await bus.runs.emit(Alert(cause="crowded", message=message))
            finally:
                await bus.close()

    @asynccontextmanager
    async def _term(self, run_id: str) -> "AsyncIterator[tuple[Bus, Tenure]]":
        bus = await self._connect(run_id)
        tenure = Tenure(self._owner)
        try:
            try:
                await tenure.take(bus)
            except LeaseHeld as error:
                raise AlreadyLed(str(error)) from error
            yield bus, tenure
        finally:
            await tenure.release()
            await bus.close()

    async def _connect(self, run_id: str) -> Bus:
        return await Bus.connect(self._url, run_id, instance=secrets.token_hex(6))
