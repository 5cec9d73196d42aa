"""The queue of runs, as one instance of the service sees it and starts what it has room for."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from dapo.host.storage import in_words
from dapo.records.identity import RunIdentity, read_identity
from dapo.spec.load import load_spec
from dapo.spec.run import RunSpec
from services.orchestrator.launch.launcher import LaunchError
from services.orchestrator.queue.capacity import Capacity
from services.orchestrator.queue.entries import AlreadyLed, Entries, spec_file
from services.orchestrator.queue.locks import RunLocks
from services.orchestrator.queue.rule import Amounts, Verdict, Waiting, judge
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.records.remarks import read_remarks
from services.orchestrator.runs.outcome import RunOutcome
from services.orchestrator.runs.questions import NoAnswer

log = logging.getLogger(__name__)

_AGAIN_S = 30.0
"""After this time a run that could not be started is tried again."""
LEFT = "no service leads it; one goes on with it as soon as it can"


class Candidate(NamedTuple):
    """A run that nobody leads, though somebody is to."""

    folder: Path
    identity: RunIdentity


class Told(NamedTuple):
    """What a run that waits is said to be."""

    state: str
    message: str
    position: int | None


class _Refused(NamedTuple):
    until: float
    why: str


class Line:
    """The runs that wait, and what there is to be said of them.

    Parts: the rule (rule.py), the machine, and the entries, which are there for all instances of the service; what is
    here is what this one has seen of them when it looked last, a second ago.
    Promises: no two instances start a run (`Entries.start`), nor does one start what it has no room for.
    Restart: who waits, and since when, is in folders and Redis.
    """

    def __init__(
        self,
        machine: Capacity,
        entries: Entries,
        under_way: Callable[[], Mapping[str, RunSpec]],
        lead: Callable[[Path], Awaitable[None]],
        locks: RunLocks,
    ) -> None:
        """`under_way`: the specs of the runs that go on here, or are about to. `lead`: goes on with the run in a
        folder, or raises LookupError, ValueError, RuntimeError, OSError in words."""
        self._machine = machine
        self._entries = entries
        self._under_way = under_way
        self._lead = lead
        self._seen: dict[str, tuple[Waiting, Verdict]] = {}
        self._specs: dict[RunIdentity, RunSpec] = {}
        self._refused: dict[str, _Refused] = {}
        self._lacks: dict[str, str] = {}
        """By run whose turn it is: what it lacked when it was last tried."""
        # A look passes a run over that is being changed.
        self._locks = locks
        self._telling: set[asyncio.Task[None]] = set()

    def __iter__(self) -> Iterator[tuple[Waiting, Verdict]]:
        """Those that wait, in order, and why."""
        return iter([one for one in self._seen.values() if not one[1].starts])

    def on_gpus(self, spec: RunSpec) -> bool:
        """Whether the run is counted with GPUs here."""
        return self._machine.needs(spec).gpus > 0

    def waits(self, run_id: str) -> bool:
        """Whether it has been seen in the queue."""
        return (told := self.told(run_id)) is not None and told.state == "queued"

    async def holds(self, run_id: str, folder: Path) -> bool:
        """Whether it is in the queue, which another instance may have put it in. Raises NoAnswer, RunDirError,
        OSError."""
        return self.waits(run_id) or await self._entries.holds(folder)

    def told(self, run_id: str) -> Told | None:
        """None of a run that this instance has not seen in the queue."""
        if (seen := self._seen.get(run_id)) is None:
            return None
        waiting, verdict = seen
        if waiting.under_way and (waiting.obstacle or verdict.starts):
            why = f". This one cannot yet: {waiting.obstacle}" if waiting.obstacle else ""
            return Told("starting", f"{LEFT}{why}", None)
        return Told("queued", verdict.reason or LEFT, verdict.position)

    async def look(self, candidates: Sequence[Candidate]) -> None:
        """Start those that there is room for. Raises NoAnswer."""
        known = set(self._seen)
        by_id = {one.identity.run_id: one for one in candidates}
        self._forget(but=by_id)
        found = await asyncio.to_thread(lambda: [self._waiting(one) for one in by_id.values()])
        # What has come into the queue meanwhile stays; what has left it `Entries.start` does not start.
        come = [one for one in self._waits() if one.run_id not in known and one.run_id not in by_id]
        turns = self._judge([*(one for one in found if not self._locks.of(one.run_id).locked()), *come])
        for verdict in turns:
            if verdict.run_id in by_id:
                await self._start(by_id[verdict.run_id], verdict.reason)
        if turns:  # the others have moved up
            self._judge(self._waits())

    def admit(self, recorder: Recorder, spec: RunSpec) -> str:
        """Why a run that is new in the queue has to wait; "": it has its GPUs, and is to be started at once."""
        run_id = recorder.identity.run_id
        one = Waiting(run_id, self._machine.needs(spec), _priority(recorder.run_dir), time.time())
        verdict = next(found for found in self._verdicts([*self._waits(), one]) if found.run_id == run_id)
        if not verdict.starts:
            return verdict.reason
        try:
            self._machine.reserve(run_id, spec)
        except LaunchError as error:
            self._lacks[run_id] = str(error)
            return str(error)
        self._warn(run_id, verdict.reason)
        return ""

    def give_back(self, run_id: str) -> None:
        """What `admit` has given to a run that does not start."""
        self._machine.release(run_id)

    async def add(self, recorder: Recorder, spec: RunSpec, reason: str, *, resumed: bool) -> None:
        """As Entries.add, by whoever holds the run's lock; others may work in its folder from then on."""
        run_id = recorder.identity.run_id
        with closing(recorder):
            await self._entries.add(recorder, spec, reason, resumed=resumed)
        waiting = await asyncio.to_thread(self._waiting, Candidate(recorder.run_dir, recorder.identity))
        self._judge([*(one for one in self._waits() if one.run_id != run_id), waiting])

    async def conclude(self, folder: Path, spec: RunSpec, outcome: RunOutcome, *, shared: bool) -> None:
        """As Entries.conclude."""
        run_id = read_identity(folder).run_id
        async with self._locks.hold(run_id):
            if run_id in self._under_way():
                raise AlreadyLed(f"run {run_id} goes on")
            self._seen.pop(run_id, None)
            await self._entries.conclude(folder, spec, outcome, shared=shared)

    def _waits(self) -> list[Waiting]:
        return [one for one, _ in self._seen.values()]

    def _judge(self, waiting: Sequence[Waiting]) -> list[Verdict]:
        """Of those whose turn it is, also of one that lacked something when it was last tried."""
        by_id = {one.run_id: one for one in waiting}
        verdicts = self._verdicts(waiting)
        self._seen = {one.run_id: (by_id[one.run_id], self._as_tried(one)) for one in verdicts}
        return [one for one in verdicts if one.starts]

    def _as_tried(self, verdict: Verdict) -> Verdict:
        lacks = self._lacks.get(verdict.run_id, "") if verdict.starts else ""
        return verdict._replace(starts=False, reason=lacks) if lacks else verdict

    def _verdicts(self, waiting: Sequence[Waiting]) -> list[Verdict]:
        if not waiting:
            return []
        going = self._under_way()
        return judge(waiting, self._machine.has, self._machine.taken(going.values()), len(going), time.time())

    def _waiting(self, one: Candidate) -> Waiting:
        """Reads the run's folder."""
        identity = one.identity
        refused, needs = self._refused.get(identity.run_id), Amounts()
        obstacle = refused.why if refused is not None and time.monotonic() < refused.until else ""
        try:
            spec = self._spec(one)
            needs = self._machine.needs(spec)
            obstacle = obstacle or "; ".join(map(str, self._machine.misfits(spec))) or self._machine.lacks(identity)
        except (ValueError, OSError) as error:
            obstacle = in_words(error, one.folder)
        since = datetime.fromisoformat(identity.queued_at or identity.created_at).timestamp()
        priority = _priority(one.folder)
        return Waiting(identity.run_id, needs, priority, since, identity.begun and not identity.queued_at, obstacle)

    def _spec(self, one: Candidate) -> RunSpec:
        """With which it starts. Raises SpecError, OSError."""
        if (known := self._specs.get(one.identity)) is not None:
            return known
        spec = self._specs[one.identity] = load_spec(spec_file(one.folder, one.identity))
        return spec

    def _forget(self, but: Mapping[str, Candidate]) -> None:
        kept = {one.identity for one in but.values()}
        self._specs = {identity: spec for identity, spec in self._specs.items() if identity in kept}
        self._refused = {run_id: refused for run_id, refused in self._refused.items() if run_id in but}
        self._lacks = {run_id: why for run_id, why in self._lacks.items() if run_id in but or run_id in self._seen}

    async def _start(self, one: Candidate, warning: str) -> None:
        run_id = one.identity.run_id
        lock = self._locks.of(run_id)
        if not lock.locked() and run_id in self._seen and run_id not in self._under_way():
            async with lock:
                await self._start_alone(run_id, one, warning)

    async def _start_alone(self, run_id: str, one: Candidate, warning: str) -> None:
        waiting, verdict = self._seen[run_id]
        try:
            self._machine.reserve(run_id, self._specs[one.identity])
            self._lacks.pop(run_id, None)
            if await self._entries.start(run_id, lambda: self._lead(one.folder)):
                log.info("run %s was led by nobody: this service goes on with it", run_id)
                self._seen.pop(run_id, None)
                self._warn(run_id, warning)
        except NoAnswer:
            raise
        except LaunchError as error:  # another process was faster, or no agent is free
            self._lacks[run_id] = str(error)
            self._seen[run_id] = waiting, verdict._replace(starts=False, reason=str(error))
        except (LookupError, ValueError, RuntimeError, OSError) as error:
            log.error("the run in %s does not go on: %s", one.folder, error)
            self._refused[run_id] = _Refused(time.monotonic() + _AGAIN_S, str(error))
            waiting = waiting._replace(obstacle=str(error))
            self._seen[run_id] = waiting, verdict._replace(starts=False, reason=str(error))
        finally:
            # It may go on though this was cut short since.
            if run_id not in self._under_way():
                self._machine.release(run_id)

    def _warn(self, run_id: str, reason: str) -> None:
        """Of a run that starts though there is less than it needs."""
        if not reason:
            return
        message = f"the run starts all the same, as it has the machine to itself: {reason}"
        log.warning("%s: %s", run_id, message)
        task = asyncio.create_task(self._say(run_id, message))
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)

    async def _say(self, run_id: str, message: str) -> None:
        try:
            await self._entries.say(run_id, message)
        except NoAnswer as error:
            log.warning("those that watch run %s are not told that: %s", run_id, error)


def _priority(folder: Path) -> int:
    """0 where a damaged file does not tell; the run is shown so, too."""
    try:
        return read_remarks(folder).priority
    except (ValueError, OSError) as error:
        log.warning("the priority of a run is not known: %s", in_words(error, folder))
        return 0
