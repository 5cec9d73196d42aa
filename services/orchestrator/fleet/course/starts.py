"""How runs start and go on: at once, or once there is room."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from dapo.bus import BusError
from dapo.bus.errors import LeaseHeld
from dapo.bus.index import Desired, Listed, RunIndex
from dapo.records.folder import RunFolder
from dapo.records.identity import RunDirError, read_identity
from dapo.spec.load import check_inputs, load_spec
from dapo.spec.run import RunSpec
from services.orchestrator.fleet.drivers import Drivers
from services.orchestrator.fleet.errors import RunConflict, unusable
from services.orchestrator.fleet.past import delete_folder
from services.orchestrator.launch.launcher import Launcher
from services.orchestrator.queue.entries import AlreadyLed, spec_file
from services.orchestrator.queue.line import Line
from services.orchestrator.queue.locks import RunLocks
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.driver import RunDriver
from services.orchestrator.runs.outcome import has_succeeded
from services.orchestrator.runs.questions import NoAnswer
from services.orchestrator.runs.redis import RunRedis
from services.orchestrator.runs.resumption import Change, changes, check_goes_on
from services.orchestrator.runs.tenure import LEASE_S

log = logging.getLogger(__name__)

_SETTLE_S = 20.0
_AGAIN_S = 1.0


class Start(NamedTuple):
    """What a driver is made of."""

    spec: RunSpec
    recorder: Recorder
    previous: RunSpec | None = None
    """Of a run that goes on."""
    changed: Sequence[Change] = ()


class Owner(Protocol):
    """What is to be known of the service's runs."""

    def shares(self, spec: RunSpec) -> bool:
        """Whether other services see the run's lease."""

    async def folder(self, run_id: str) -> Path: ...


class Starts:
    """Of the runs of one service. All start here, so that none starts without its turn."""

    def __init__(
        self,
        runs: Owner,
        launcher: Launcher,
        drivers: Drivers,
        line: Line | None,
        locks: RunLocks,
        *,
        index: RunIndex | None,
        redis_url: str | None,
        owner: str,
        room: Callable[[str, RunSpec, RunSpec], str],
    ) -> None:
        """`room`: as a driver's. `line`: where runs wait for room; None: they do not."""
        self._runs = runs
        self._launcher = launcher
        self._drivers = drivers
        self._line = line
        self._locks = locks
        self._index = index
        self._redis_url = redis_url
        self._owner = owner
        self._room = room
        self.entering: dict[str, RunSpec] = {}
        """Runs that have their room, and go on in a moment."""
        self._under_way: set[asyncio.Task[RunDriver | None]] = set()
        self._withdrawing: set[asyncio.Task[None]] = set()

    async def begin(self, spec: RunSpec, recorder: Recorder) -> RunDriver | None:
        """Start a new run; None: it waits for room. Raises RunConflict, NoAnswer; then its folder is gone."""
        return await self._carry_through(self._begin(Start(spec, recorder)))

    async def resume(
        self, run_id: str, overrides: Sequence[str], admit: Callable[[RunSpec], object]
    ) -> RunDriver | None:
        """Go on with a run; None: it waits for room. Raises RunNotFound, SpecError, RunConflict, NoAnswer."""
        return await self._carry_through(self._resume(run_id, overrides, admit))

    def lead(self, folder: Path) -> None:
        """Go on with a run whose turn it is, or begin it. Raises SpecError, RunConflict."""
        start = self._reopen(folder, (), check_inputs)
        self._start(self._driver(start, None if self._index is not None else Desired.STOPPED))

    async def settle(self) -> None:
        """Return once what was asked for has been carried through."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=_SETTLE_S)

    async def _carry_through(self, asked: Coroutine[Any, Any, RunDriver | None]) -> RunDriver | None:
        """Though its caller leaves."""
        task = asyncio.create_task(asked)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def _begin(self, start: Start) -> RunDriver | None:
        async with self._locks.hold(start.recorder.identity.run_id):
            return await self._enter(start, new=True)

    async def _resume(
        self, run_id: str, overrides: Sequence[str], admit: Callable[[RunSpec], object]
    ) -> RunDriver | None:
        try:
            async with self._locks.hold(run_id):
                folder = await self._runs.folder(run_id)
                await self._drivers.refuse_where_led(run_id)
                if self._line is not None and await self._holds(self._line, run_id, folder):
                    what = "cancel it first, and resume it then with what is to change"
                    raise RunConflict(f"run {run_id} waits for room already: {what}")
                start = await asyncio.to_thread(self._reopen, folder, overrides, admit)
                return await self._enter(start, new=False)
        except TimeoutError as error:
            raise RunConflict(str(error)) from error

    async def _holds(self, line: Line, run_id: str, folder: Path) -> bool:
        try:
            return await line.holds(run_id, folder)
        except (RunDirError, OSError) as error:
            raise unusable("the run does not go on", error, folder) from error

    async def _enter(self, start: Start, *, new: bool) -> RunDriver | None:
        # With a Redis of its own a run is in no queue.
        line = self._line if start.spec.resources.redis.url is None else None
        if line is not None and (reason := line.admit(start.recorder, start.spec)):
            await self._wait(line, start, reason, new=new)
            return None
        driver = self._driver(start, Desired.STOPPED if self._index is None else Desired.RUNNING)
        if line is not None:
            await self._lead_at_once(line, start, driver, new=new)
        return self._start(driver)

    async def _lead_at_once(self, line: Line, start: Start, driver: RunDriver, *, new: bool) -> None:
        """Others know of the run, and who leads it, before it is answered for."""
        # Where nobody else uses the server, a lease is of a process that is gone.
        patience_s = 0.0 if new or self._runs.shares(start.spec) else LEASE_S
        self.entering[driver.run_id] = driver.spec
        try:
            await driver.entrance.enter(patience_s)
        except (NoAnswer, LeaseHeld, RunDirError, OSError) as error:
            await driver.entrance.withdraw()
            line.give_back(driver.run_id)
            if new:
                await asyncio.to_thread(delete_folder, driver.run_dir, checkpoints=True)
            if isinstance(error, NoAnswer):
                raise
            raise unusable(f"run {driver.run_id} cannot start", error, driver.run_dir) from error
        finally:
            del self.entering[driver.run_id]

    async def _wait(self, line: Line, start: Start, reason: str, *, new: bool) -> None:
        run_id, folder = start.recorder.identity.run_id, start.recorder.run_dir
        start.recorder.count(on_gpus=line.on_gpus(start.spec))
        try:
            await line.add(start.recorder, start.spec, reason, resumed=not new)
        except (AlreadyLed, NoAnswer, RunDirError, OSError) as error:
            if new:
                await asyncio.to_thread(delete_folder, folder, checkpoints=True)
            if isinstance(error, NoAnswer):
                if new:
                    self._withdraw(start)
                raise
            raise unusable(f"run {run_id} cannot wait for room", error, folder) from error
        self._drivers.remove(run_id)

    def _withdraw(self, start: Start) -> None:
        """Of a run whose folder is gone: what Redis was sent while it was silent it does once it goes on."""
        task = asyncio.create_task(self._forget(start.recorder.identity.run_id, start.recorder.run_dir, start.spec))
        self._withdrawing.add(task)
        task.add_done_callback(self._withdrawing.discard)

    async def _forget(self, run_id: str, folder: Path, spec: RunSpec) -> None:
        assert self._index is not None, "without an index there is no queue"
        redis = RunRedis(run_id, folder, spec.resources, self._redis_url)
        while True:
            try:
                await redis.purge(self._owner)  # under a newer lease: what comes late of the one before is refused
                return await self._index.remove(run_id)
            except (BusError, OSError) as error:
                log.warning("run %s was not made, which Redis does not know yet: %s", run_id, error)
                await asyncio.sleep(_AGAIN_S)

    def close(self) -> None:
        """What Redis has not answered to is withdrawn no more."""
        for task in self._withdrawing:
            task.cancel()

    def _reopen(self, folder: Path, overrides: Sequence[str], admit: Callable[[RunSpec], object]) -> Start:
        files = RunFolder(folder)
        try:
            identity = read_identity(folder)
            if self._drivers.leads(identity.run_id):
                raise RunConflict(f"run {identity.run_id} goes on already")
            previous = load_spec(files.spec)
            spec = load_spec(spec_file(folder, identity), overrides)
            changed = changes(previous, spec)
            admit(spec)
            check_goes_on(files, spec, over=has_succeeded(folder))
            recorder = Recorder.reopen(folder, spec, shared=self._runs.shares(spec))
        except (RunDirError, OSError) as error:
            raise unusable("the run does not go on", error, folder) from error
        begins = not identity.begun and not changed
        return Start(spec, recorder, None if begins else previous, changed)

    def _driver(self, start: Start, desired: Desired | None) -> RunDriver:
        spec, recorder, previous, changed = start
        recorder.count(on_gpus=self._line is not None and self._line.on_gpus(spec))
        identity, index = recorder.identity, self._index

        async def enlist() -> None:
            # Of a run on another server it would not tell who leads it; services that start go on with that.
            if index is not None and spec.resources.redis.url is None:
                await index.add(Listed(identity.run_id, str(recorder.run_dir), identity.created_at, spec.name))

        return RunDriver(
            *(spec, recorder, self._launcher),
            redis_url=self._redis_url,
            previous=previous,
            changed=changed,
            owner=self._owner,
            desired=desired,
            enlist=None if index is None else enlist,
            room=self._room,
        )

    def _start(self, driver: RunDriver) -> RunDriver:
        self._drivers.add(driver)
        driver.start()
        return driver
