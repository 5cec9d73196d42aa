"""RunService: the runs of this process. REST and gRPC are two faces of this one implementation."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from dapo.bus.index import RunIndex
from dapo.bus.server.connection import Server
from dapo.contracts.events import Alert
from dapo.policy import Admission
from dapo.records.explanations import GroupExplanation
from dapo.records.group_archive import DeadLetter
from dapo.spec.load import parse_spec
from dapo.spec.problem import Problem
from dapo.spec.run import RunSpec
from dapo.v1 import run_pb2 as pb
from services.orchestrator.fleet.course.endings import Endings
from services.orchestrator.fleet.course.folders import make_folder
from services.orchestrator.fleet.course.starts import Starts
from services.orchestrator.fleet.drivers import Drivers
from services.orchestrator.fleet.elsewhere import Elsewhere
from services.orchestrator.fleet.errors import (
    BadField,
    RunConflict,
    RunNotFound,
    ServiceStopping,
    checked_group,
)
from services.orchestrator.fleet.gate import Gate
from services.orchestrator.fleet.past import PastRuns, past_run
from services.orchestrator.fleet.removal import Removal
from services.orchestrator.fleet.steering.steering import Steering
from services.orchestrator.fleet.steering.updates import Updates
from services.orchestrator.fleet.steering.wishes import Wishes
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.launch.launcher import Launcher
from services.orchestrator.queue.capacity import Capacity
from services.orchestrator.queue.entries import Entries
from services.orchestrator.queue.line import Candidate, Line
from services.orchestrator.queue.locks import RunLocks
from services.orchestrator.queue.machine import Machine
from services.orchestrator.records.remarks import UNSAID, Edit, Remarks
from services.orchestrator.runs.driver import RunDriver
from services.orchestrator.runs.events import WatchedEvent, past_events
from services.orchestrator.runs.outcome import CANCELLED, INTERRUPTED, STOPPED
from services.orchestrator.runs.questions import Questions
from services.orchestrator.runs.tenure import new_owner

log = logging.getLogger(__name__)


class RunService:
    """Creates, shows, stops and watches runs; REST and gRPC are its two faces.

    Parts: a driver for each run, and the launcher that they share, which sees to it that runs do not share a GPU.
    Without `redis_url` each run gets an embedded Valkey of its own.
    Restart: folders below `state_dir` and the index tell which runs there are; a Reconciler has the service go on with
    those that are to and that nobody leads. Of runs that another instance leads it tells what Redis and folders tell.
    """

    def __init__(
        self,
        launcher: Launcher,
        *,
        state_dir: Path,
        redis_url: str | None = None,
        index: RunIndex | None = None,
        owner: str = "",
        alone: bool = False,
        admission: Admission | None = None,
        machine: Capacity | None = None,
    ) -> None:
        """`index`: on the server of `redis_url`, of the runs that services go on with; without one nobody goes on with
        its runs. `owner`: its name as a leader. `alone`: no other service uses that server.
        `admission`: what is refused of the specs that it is asked to run; None: nothing. `machine`: within which its
        runs start, those that are listed in turn; None: this one without its GPUs."""
        self._index = index
        self._owner = owner or new_owner()
        self._machine = machine or Machine(DeviceAllocator(()))
        self._locks = RunLocks()
        self._line: Line | None = None
        self._others: Elsewhere | None = None
        if index is not None and redis_url is not None:
            entries = Entries(index, redis_url, self._owner, launcher.keeps_workers)
            self._line = Line(self._machine, entries, self._going, self.lead, self._locks)
            self._others = Elsewhere(index, self._line.told)
        self._alone = alone
        self._state_dir = state_dir
        self._past = PastRuns(state_dir)
        self._redis_url = redis_url
        self._drivers = Drivers(None if alone else self._others)
        self._stopping = False
        self._gate = Gate(admission, state_dir, redis_url, None if self._line is None else self._machine)
        self._steering = Steering(self, self._drivers, self._others, None if index is None else Wishes(index))
        self._removal = Removal(self, redis_url, self._owner, self._others)
        self._updates = Updates(self, self._gate, self._steering)
        self._starts = Starts(
            *(self, launcher, self._drivers, self._line, self._locks),
            index=index,
            redis_url=redis_url,
            owner=self._owner,
            room=self._room,
        )
        self._endings = Endings(self, self._drivers, self._others, self._line)

    async def create(self, spec_text: str, run_dir: str = "", remarks: Remarks = UNSAID) -> pb.Run:
        """As `begin`, and show the run. Raises NoAnswer where it is there, but Redis does not tell of it."""
        run_id = await self.begin(spec_text, run_dir, remarks)
        return await self._shown(run_id, self._drivers.last(run_id))

    async def begin(self, spec_text: str, run_dir: str = "", remarks: Remarks = UNSAID) -> str:
        """Start a run in `run_dir`, a folder below the service's; "": runs/<id> there. Returns its id; where this
        raises, there is no run.

        Raises SpecError for the spec, BadRemark, BadField for a folder elsewhere or where a policy is in force,
        FolderTaken, StorageRefused where it cannot be written, RunConflict, ServiceStopping, NoAnswer.
        """
        self._gate.check_folder(run_dir)
        remarks.check()
        spec = await asyncio.to_thread(lambda: self._gate.admit(parse_spec(spec_text)))
        if self._stopping:
            raise ServiceStopping("the service is shutting down: it takes no new run")
        recorder = make_folder(
            *(self._state_dir, run_dir, spec, remarks), listed=self._index is not None, shared=self.shares(spec)
        )
        await self._starts.begin(spec, recorder)
        return recorder.identity.run_id

    async def check_ready(self) -> None:
        """Raises ServiceStopping, NoAnswer where it cannot write to its directory, or its Redis does not answer."""
        if self._stopping:
            raise ServiceStopping("the service is shutting down: it takes no new run")
        await self._gate.check_ready()

    def misfits(self, spec: RunSpec) -> list[Problem]:
        """As Gate.misfits."""
        return self._gate.misfits(spec)

    def shares(self, spec: RunSpec) -> bool:
        """Whether other services see the run's lease."""
        return spec.resources.redis.url is not None or (self._redis_url is not None and not self._alone)

    def under_way(self) -> Sequence[RunDriver]:
        """Of the runs that go on here."""
        return [driver for driver in self._drivers if not driver.over]

    @property
    def redis(self) -> Server | None:
        """That the runs have in common; None: each has its own."""
        return self._index.server if self._index is not None else None

    def leads(self, run_id: str) -> bool:
        """As Reconciler asks."""
        return self._drivers.leads(run_id)

    def waits(self, run_id: str) -> bool:
        """As Line.waits."""
        return self._line is not None and self._line.waits(run_id)

    async def lead(self, folder: Path) -> None:
        if self._stopping:
            raise ServiceStopping("the service is shutting down: it goes on with no run")
        self._starts.lead(folder)

    async def take(self, candidates: Sequence[Candidate]) -> None:
        if self._line is not None and not self._stopping:
            await self._line.look(candidates)

    async def end(self, run_id: str, *, save: bool) -> None:
        driver = self._drivers.last(run_id)
        if driver is not None and not (save and driver.stopping):
            await driver.stop(STOPPED if save else CANCELLED, save=save)

    def _going(self) -> dict[str, RunSpec]:
        """The runs that go on here, as they do, or are about to."""
        return self._starts.entering | {driver.run_id: driver.spec for driver in self.under_way()}

    def _room(self, run_id: str, now: RunSpec, wanted: RunSpec) -> str:
        waiting = next((one.run_id for one, verdict in self._line or () if not one.obstacle), "")
        if waiting:
            return f"run {waiting} waits for it"
        return self._machine.room(run_id, now, wanted, self._going().values())

    async def resume(self, run_id: str, overrides: Sequence[str] = ()) -> pb.Run:
        """Go on with a run that has ended, perhaps with another spec: `overrides` as in `load_spec`.

        Raises RunNotFound, SpecError for a spec that the run cannot go on with, or would be over with at once,
        RunConflict where it goes on or waits already or its folder cannot be used, NoAnswer, ServiceStopping.
        """
        if self._stopping:
            raise ServiceStopping("the service is shutting down: it takes no run")
        if self._others is not None:
            await self._others.settle(run_id)
        return await self._shown(run_id, await self._starts.resume(run_id, overrides, self._gate.admit))

    async def folder(self, run_id: str) -> Path:
        """Of the run's records. Raises RunNotFound."""
        if (driver := self._drivers.last(run_id)) is not None:
            return driver.run_dir
        folder = await asyncio.to_thread(self._past.find, run_id)
        if folder is None:
            raise RunNotFound(f"there is no run {run_id!r} in this service, nor below {self._state_dir.resolve()}")
        return folder

    async def rest(self, run_id: str) -> Path | None:
        """As PastRuns.rest."""
        return await asyncio.to_thread(self._past.rest, run_id)

    async def update(
        self, run_id: str, edit: Edit, *, generators: int | None = None, verifiers: int | None = None
    ) -> pb.Run:
        """As Updates.update; also raises NoAnswer."""
        await self._updates.update(run_id, edit, generators, verifiers)
        return await self.get(run_id)

    async def purge(self, run_id: str) -> None:
        """As Removal.purge."""
        async with self._undisturbed(run_id):
            await self._removal.purge(run_id)

    async def delete(self, run_id: str, *, checkpoints: bool) -> None:
        """As Removal.delete."""
        async with self._undisturbed(run_id):
            await self._removal.delete(run_id, checkpoints=checkpoints)
            self._drivers.remove(run_id)

    @contextlib.asynccontextmanager
    async def _undisturbed(self, run_id: str) -> AsyncIterator[None]:
        try:
            async with self._locks.hold(run_id):
                yield
        except TimeoutError as error:
            raise RunConflict(str(error)) from error

    async def is_over(self, run_id: str) -> bool:
        """Whether a run has ended, as far as is known here. Raises RunNotFound, NoAnswer."""
        if (driver := await self._drivers.telling(run_id)) is not None:
            return driver.over
        await self.folder(run_id)
        return self._others is None or not await self._others.goes_on(run_id)

    async def get(self, run_id: str) -> pb.Run:
        """Raises RunNotFound, NoAnswer."""
        return await self._told(await self._find(run_id))

    async def _told(self, run: pb.Run) -> pb.Run:
        return (await self._updates.told([run]))[0]

    async def _shown(self, run_id: str, driver: RunDriver | None) -> pb.Run:
        """`driver`: where it goes on here, or went on just now; others need not be asked then."""
        return await (self.get(run_id) if driver is None else self._told(await driver.read()))

    async def _find(self, run_id: str) -> pb.Run:
        if (driver := await self._drivers.telling(run_id)) is not None:
            return await driver.read()
        if self._others is not None and (there := await self._others.find(run_id)) is not None:
            return await self._others.view(*there)
        return past_run(await self.folder(run_id))

    async def list(self) -> list[pb.Run]:
        """Also those of earlier services and of other instances, oldest first. Raises NoAnswer."""
        drivers = self._drivers.that_may_tell()
        mine = await asyncio.gather(*(driver.read() for driver in drivers))
        earlier = await asyncio.to_thread(self._past.list)
        led = {driver.run_id for driver in drivers if not driver.over}
        theirs = await self._others.views(but=led) if self._others is not None else []
        found = {run.id: run for run in (*earlier, *mine, *theirs)}
        return await self._updates.told(sorted(found.values(), key=lambda run: run.created_at))

    async def stop(self, run_id: str) -> pb.Run:
        """As Endings.stop."""
        return await self._shown(run_id, await self._endings.stop(run_id))

    async def cancel(self, run_id: str) -> pb.Run:
        """As Endings.cancel."""
        return await self._shown(run_id, await self._endings.cancel(run_id))

    async def look_at_machine(self) -> pb.Machine:
        """What it has, what of it is free, and who waits for room here."""
        return self._machine.view(self._going().values(), self._line or ())

    async def watch(self, run_id: str, after: str = "", *, follow: bool = True) -> AsyncIterator[WatchedEvent]:
        """Events after `after` until the run ends, all at once of one that has ended; without `follow` those that there
        are. Raises RunNotFound, BadField."""
        try:
            if (driver := await self._drivers.telling(run_id)) is not None:
                return driver.events.watch(after, follow=follow)
            if self._others is not None and (there := await self._others.find(run_id)) is not None:
                return self._others.watch(there[0], after, follow=follow)
            return past_events(await self.folder(run_id)).watch(after)
        except ValueError as error:
            raise BadField("after", "is not an event id: give the id of the last event seen", after) from error

    async def explain(self, run_id: str, group_id: str) -> GroupExplanation:
        """What is known of a group, also of one of an earlier service's run.

        Raises RunNotFound, BadField, GroupNotFound, NoAnswer, FolderUnreadable.
        """
        async with self.questions(run_id) as questions:
            return await questions.explain(checked_group(group_id))

    async def dead_letters(self, run_id: str, count: int) -> Sequence[DeadLetter]:
        """What was taken out of circulation, the newest first. Raises RunNotFound, NoAnswer, FolderUnreadable."""
        async with self.questions(run_id) as questions:
            return await questions.dead_letters(count)

    @contextlib.asynccontextmanager
    async def questions(self, run_id: str) -> AsyncIterator[Questions]:
        """Of a run whoever leads it, also one that has ended. Raises RunNotFound, NoAnswer."""
        if (driver := await self._drivers.telling(run_id)) is not None:
            yield driver.questions
            return
        folder = await self.folder(run_id)
        if self._others is None or not await self._others.goes_on(run_id):
            yield Questions(folder)
            return
        yield Questions(folder, self._others.reading(run_id))

    async def requeue(self, run_id: str, group_id: str) -> None:
        """Have the prompt of a failed group issued once more, as a new group.

        Raises BadField, and as Steering.requeue.
        """
        await self._steering.requeue(run_id, checked_group(group_id))

    async def carry_out(self, run_id: str, wish_id: str, text: str) -> None:
        """As Reconciler asks."""
        await self._steering.carry_out(run_id, wish_id, text)

    async def tell(self, alert: Alert) -> None:
        """In every run that goes on here."""
        for driver in self.under_way():
            await driver.events.tell(alert)

    async def close(self) -> None:
        """Stop every run, at once; a service that starts again takes them up."""
        self._stopping = True
        self._starts.close()
        if self._others is not None:
            self._others.close()
        await asyncio.gather(self._starts.settle(), *(driver.stop(INTERRUPTED) for driver in self._drivers))
        await asyncio.gather(*(driver.stop(INTERRUPTED) for driver in self._drivers))  # of those that started meanwhile
