"""RunService: the runs of this process. REST and gRPC are two faces of this one implementation."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dapo.bus import BusError
from dapo.bus.keys import GROUP_ID
from dapo.host.storage import in_words
from dapo.records.explanations import GroupExplanation
from dapo.records.folder import RunFolder
from dapo.records.group_archive import DeadLetter
from dapo.records.identity import FolderLock, RunDirError, RunIdentity, read_identity
from dapo.spec.load import load_spec, missing_inputs, parse_spec, unfit_inputs
from dapo.spec.problem import SpecError
from dapo.v1 import run_pb2 as pb
from services.orchestrator.launch.launcher import Launcher, LaunchError
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.driver import RunDriver
from services.orchestrator.runs.events import WatchedEvent, past_events
from services.orchestrator.runs.outcome import INTERRUPTED, RunFailed
from services.orchestrator.runs.past import (
    find_folder,
    has_succeeded,
    past_run,
    past_runs,
    run_folders,
    was_interrupted,
)
from services.orchestrator.runs.questions import Questions
from services.orchestrator.runs.redis import RunRedis
from services.orchestrator.runs.resumption import changes

log = logging.getLogger(__name__)


class RunNotFound(LookupError):
    """No run of this service has that id."""


class RunConflict(RuntimeError):
    """The request does not fit the state of things, e.g. a run folder that is taken."""


class BadField(ValueError):
    """A field of a request, other than the spec, cannot be what it is; the message names it."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class ServiceStopping(RuntimeError):
    """The service is shutting down and takes no new run."""


def new_run_id(name: str, now: datetime) -> str:
    """<name>-<YYYYmmdd-HHMMSS>-<4 hex digits>, the time in UTC."""
    return f"{name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


class RunService:
    """Creates, shows, stops and watches runs; REST and gRPC are its two faces.

    Parts: a driver for each run, and the launcher that they share, which sees to it that runs do not share a GPU.
    Without `redis_url` each run gets an embedded Valkey of its own.
    Restart: which runs there are is told by their folders below `state_dir`; `take_up` goes on with those that a
    service before this one did not bring to an end.
    """

    def __init__(
        self, launcher: Launcher, *, state_dir: Path, redis_url: str | None = None, takes_up: bool = True
    ) -> None:
        """`takes_up`: its runs are such that a later service goes on with them."""
        self._takes_up = takes_up
        self._launcher = launcher
        self._state_dir = state_dir
        self._redis_url = redis_url
        self._runs: dict[str, RunDriver] = {}
        self._stopping = False

    async def create(self, spec_text: str, run_dir: str = "") -> pb.Run:
        """Start a run in `run_dir`, a folder below the service's; "": runs/<id> there.

        Raises SpecError for the spec, BadField for a folder elsewhere, RunConflict for one that is taken or cannot be
        made, ServiceStopping.
        """
        if self._stopping:
            raise ServiceStopping("the service is shutting down: it takes no new run")
        spec = parse_spec(spec_text)
        if problems := [*missing_inputs(spec), *unfit_inputs(spec)]:
            raise SpecError(problems)
        now = datetime.now(UTC)
        run_id = new_run_id(spec.name, now)
        try:
            folder = self._below(run_dir) if run_dir else (self._state_dir / "runs" / run_id).resolve()
            identity = RunIdentity(run_id, now.isoformat(timespec="milliseconds"), self._takes_up)
            recorder = Recorder.create(folder, spec, identity)
        except (RunDirError, OSError) as error:
            asked = self._state_dir / (run_dir or f"runs/{run_id}")
            raise RunConflict(f"run_dir {asked}: {in_words(error, asked)}") from error
        driver = RunDriver(spec, recorder, self._launcher, redis_url=self._redis_url)
        self._runs[run_id] = driver
        driver.start()
        return driver.snapshot()

    async def take_up(self) -> None:
        """Go on with the runs of an earlier service that nobody stopped. What cannot go on is told in the log."""
        for folder in await asyncio.to_thread(run_folders, self._state_dir.resolve()):
            try:
                if was_interrupted(folder):
                    self._go_on(folder, ())
            except (SpecError, RunConflict, RunDirError, OSError) as error:
                log.error("the run in %s does not go on: %s", folder, error)

    async def resume(self, run_id: str = "", run_dir: str = "", overrides: Sequence[str] = ()) -> pb.Run:
        """Go on with a run that has ended, perhaps with another spec: `overrides` as in `load_spec`.

        It is named by its id or by its folder below the service's. Raises RunNotFound, SpecError for a spec that the
        run cannot go on with, BadField for a folder elsewhere, RunConflict where it goes on already, has no step left
        or its folder cannot be used, ServiceStopping.
        """
        if self._stopping:
            raise ServiceStopping("the service is shutting down: it takes no run")
        if bool(run_id) == bool(run_dir):
            raise BadField("id", "name the run by its id or by its run_dir, one of the two")
        folder = self._below(run_dir) if run_dir else await self._folder(run_id)
        return self._go_on(folder, overrides).snapshot()

    async def _folder(self, run_id: str) -> Path:
        if (driver := self._runs.get(run_id)) is not None:
            return driver.run_dir
        folder = await asyncio.to_thread(find_folder, self._state_dir.resolve(), run_id)
        if folder is None:
            raise RunNotFound(f"there is no run {run_id!r} in this service, nor below {self._state_dir.resolve()}")
        return folder

    def _go_on(self, folder: Path, overrides: Sequence[str]) -> RunDriver:
        try:
            run_id = read_identity(folder).run_id
            driver = self._runs.get(run_id)
            if driver is not None and not driver.over:
                raise RunConflict(f"run {run_id} goes on already")
            previous = load_spec(RunFolder(folder).spec)
            spec = load_spec(RunFolder(folder).spec, overrides)
            changes(previous, spec)
            if problems := [*missing_inputs(spec), *unfit_inputs(spec)]:
                raise SpecError(problems)
            if has_succeeded(folder) and spec.training.steps <= previous.training.steps:
                raise RunConflict(
                    f"run {run_id} has done its {previous.training.steps} steps: to go beyond them, set training.steps"
                )
            recorder = Recorder.reopen(folder, spec)
            try:
                driver = RunDriver(spec, recorder, self._launcher, redis_url=self._redis_url, previous=previous)
                driver.events.reopen()
            except BaseException:
                recorder.close()
                raise
        except (RunDirError, OSError) as error:
            raise RunConflict(f"run_dir {folder}: {in_words(error, folder)}") from error
        self._runs[run_id] = driver
        driver.start()
        return driver

    async def scale(self, run_id: str, *, generators: int | None = None, verifiers: int | None = None) -> pb.Run:
        """Have so many generators or verifiers from now on, and after a resume.

        Raises RunNotFound, BadField for a number below 1, RunConflict where the run does not go on, the machine has no
        room for them, or they are there but a resume would not know of them.
        """
        wanted = {"generator": generators, "verifier": verifiers}
        replicas = {role: number for role, number in wanted.items() if number is not None}
        for role, number in replicas.items():
            if number < 1:
                raise BadField(f"{role}s", f"{number}: a run needs at least one {role}")
        if not replicas:
            raise BadField("generators", "say how many generators or verifiers there shall be")
        driver = self._find(run_id)
        try:
            await driver.scale(replicas)
        except (RunFailed, LaunchError) as error:
            raise RunConflict(str(error)) from error
        except (BusError, OSError) as error:
            words = str(error) or "Redis does not answer"
            raise RunConflict(f"run {run_id} is scaled until it ends, but cannot keep that: {words}") from error
        return await driver.read()

    async def purge(self, run_id: str) -> None:
        """Delete what a run that has ended holds in Redis; its folder stays. It can go on from a checkpoint only.

        Raises RunNotFound, RunConflict where it has not ended, perhaps in another process, or Redis refuses.
        """
        driver = self._runs.get(run_id)
        if driver is not None and not driver.over:
            raise RunConflict(f"run {run_id} goes on: stop it first")
        folder = await self._folder(run_id)
        try:
            lock = FolderLock(folder)
            try:
                resources = load_spec(RunFolder(folder).spec).resources
                await RunRedis(run_id, folder, resources, self._redis_url).purge()
            finally:
                lock.release()
        except (SpecError, BusError, RunDirError, OSError) as error:
            raise RunConflict(f"run {run_id} could not be purged: {error}") from error

    def _below(self, run_dir: str) -> Path:
        """The folder itself, links followed: who may start runs may not write wherever the service may. Raises BadField
        for one that is not below the service's directory, OSError."""
        root = self._state_dir.resolve()
        try:
            folder = (root / run_dir).resolve()
        except ValueError as error:
            raise BadField("run_dir", f"{run_dir!r} is no path: {error}") from None
        if folder == root or not folder.is_relative_to(root):
            raise BadField(
                "run_dir",
                f"{run_dir!r} is not below the service's directory (dapo serve --state-dir). Give a relative path "
                "without .. or links that lead out, e.g. runs/first",
            )
        return folder

    def _find(self, run_id: str) -> RunDriver:
        try:
            return self._runs[run_id]
        except KeyError:
            raise RunNotFound(f"run {run_id!r} does not go on in this service") from None

    async def get(self, run_id: str) -> pb.Run:
        """Raises RunNotFound."""
        if (driver := self._runs.get(run_id)) is not None:
            return await driver.read()
        return past_run(await self._folder(run_id))

    async def list(self) -> list[pb.Run]:
        """Also those of earlier services, oldest first."""
        mine = await asyncio.gather(*(driver.read() for driver in list(self._runs.values())))
        earlier = await asyncio.to_thread(past_runs, self._state_dir.resolve())
        found = {run.id: run for run in (*earlier, *mine)}
        return sorted(found.values(), key=lambda run: run.created_at)

    async def stop(self, run_id: str) -> pb.Run:
        """Have the learner write a checkpoint, within `checkpoint.on_stop_s`, then end the run's processes and return
        once they are gone. A run that has ended stays as it is."""
        driver = self._find(run_id)
        await driver.stop(save=True)
        return await driver.read()

    async def watch(self, run_id: str, after: str = "") -> AsyncIterator[WatchedEvent]:
        """Events after `after` until the run ends, all at once of one that has ended. Raises RunNotFound, BadField."""
        driver = self._runs.get(run_id)
        events = driver.events if driver is not None else past_events(await self._folder(run_id))
        try:
            return events.watch(after)
        except ValueError as error:
            raise BadField("after", f"{after!r} is not an event id: give the id of the last event seen") from error

    async def explain(self, run_id: str, group_id: str) -> GroupExplanation:
        """What is known of a group, also of one of an earlier service's run.

        Raises RunNotFound, BadField, GroupNotFound, NoAnswer.
        """
        return await (await self._questions(run_id)).explain(_checked(group_id))

    async def dead_letters(self, run_id: str, count: int) -> Sequence[DeadLetter]:
        """What was taken out of circulation, the newest first. Raises RunNotFound, NoAnswer."""
        return await (await self._questions(run_id)).dead_letters(count)

    async def _questions(self, run_id: str) -> Questions:
        driver = self._runs.get(run_id)
        return driver.questions if driver is not None else Questions(await self._folder(run_id))

    async def requeue(self, run_id: str, group_id: str) -> None:
        """Have the prompt of a failed group issued once more, as a new group.

        Raises RunNotFound, BadField, GroupNotFound, NotRequeued, NoAnswer.
        """
        await self._find(run_id).requeue(_checked(group_id))

    async def close(self) -> None:
        """Stop every run, at once; a service that starts again takes them up."""
        self._stopping = True
        await asyncio.gather(*(driver.stop(INTERRUPTED) for driver in self._runs.values()))


def _checked(group_id: str) -> str:
    """Raises BadField for what is no group id."""
    if not GROUP_ID.fullmatch(group_id.encode()):
        raise BadField("group", f"{group_id!r} is no group id: g or e (of an evaluation) and ten digits")
    return group_id
