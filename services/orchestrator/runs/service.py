"""RunService: the runs of this process. REST and gRPC are two faces of this one implementation."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from dapo.bus.keys import GROUP_ID
from dapo.host.storage import in_words
from dapo.records.explanations import GroupExplanation
from dapo.records.group_archive import DeadLetter
from dapo.records.identity import RunDirError, RunIdentity
from dapo.spec.load import missing_inputs, parse_spec, unfit_inputs
from dapo.spec.problem import SpecError
from dapo.v1 import run_pb2 as pb
from services.orchestrator.launch.launcher import Launcher
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.driver import RunDriver
from services.orchestrator.runs.events import WatchedEvent


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
    Without `redis_url` each run gets an embedded Valkey of its own. Restart: runs end with this process, and what they
    have written stays.
    """

    def __init__(self, launcher: Launcher, *, state_dir: Path, redis_url: str | None = None) -> None:
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
            identity = RunIdentity(run_id, now.isoformat(timespec="milliseconds"))
            recorder = Recorder.create(folder, spec, identity)
        except (RunDirError, OSError) as error:
            asked = self._state_dir / (run_dir or f"runs/{run_id}")
            raise RunConflict(f"run_dir {asked}: {in_words(error, asked)}") from error
        driver = RunDriver(spec, recorder, self._launcher, redis_url=self._redis_url)
        self._runs[run_id] = driver
        driver.start()
        return driver.snapshot()

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
            raise RunNotFound(f"there is no run {run_id!r} in this service") from None

    async def get(self, run_id: str) -> pb.Run:
        """Raises RunNotFound."""
        return await self._find(run_id).read()

    async def list(self) -> list[pb.Run]:
        """Oldest first."""
        return list(await asyncio.gather(*(driver.read() for driver in list(self._runs.values()))))

    async def stop(self, run_id: str) -> pb.Run:
        """End the run's processes and return once they are gone; a run that has ended stays as it is."""
        driver = self._find(run_id)
        await driver.stop()
        return await driver.read()

    def watch(self, run_id: str, after: str = "") -> AsyncIterator[WatchedEvent]:
        """Events after `after` until the run ends. Raises RunNotFound or BadField before the first."""
        events = self._find(run_id).events
        try:
            return events.watch(after)
        except ValueError as error:
            raise BadField("after", f"{after!r} is not an event id: give the id of the last event seen") from error

    async def explain(self, run_id: str, group_id: str) -> GroupExplanation:
        """What is known of a group. Raises RunNotFound, BadField, GroupNotFound, NoAnswer."""
        return await self._find(run_id).questions.explain(_checked(group_id))

    async def dead_letters(self, run_id: str, count: int) -> Sequence[DeadLetter]:
        """What was taken out of circulation, the newest first. Raises RunNotFound, NoAnswer."""
        return await self._find(run_id).questions.dead_letters(count)

    async def requeue(self, run_id: str, group_id: str) -> None:
        """Have the prompt of a failed group issued once more, as a new group.

        Raises RunNotFound, BadField, GroupNotFound, NotRequeued, NoAnswer.
        """
        await self._find(run_id).requeue(_checked(group_id))

    async def close(self) -> None:
        """Stop every run."""
        self._stopping = True
        await asyncio.gather(*(driver.stop() for driver in self._runs.values()))


def _checked(group_id: str) -> str:
    """Raises BadField for what is no group id."""
    if not GROUP_ID.fullmatch(group_id.encode()):
        raise BadField("group", f"{group_id!r} is no group id: g or e (of an evaluation) and ten digits")
    return group_id
