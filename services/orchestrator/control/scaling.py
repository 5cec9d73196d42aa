"""How the number of a run's workers changes: as somebody asks, or of generators as the run's own steps ask."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from dapo.algo.scaling import Advice, Limits, Row, advise
from dapo.bus import BusError
from dapo.contracts.events import Alert, Emit, ScaledBy
from dapo.spec.run import RunSpec
from services.orchestrator.launch.launcher import LaunchError

log = logging.getLogger(__name__)

_LOOK_S = 1.0


class Scale(NamedTuple):
    """Another number of workers."""

    replicas: Mapping[str, int]
    """By role, `generator` or `verifier`; others stay as they are."""
    reason: str = "asked for"
    by: ScaledBy = "request"


class Scalable(Protocol):
    """A run that goes on."""

    @property
    def spec(self) -> RunSpec:
        """As it is at the moment."""

    async def scale(self, scale: Scale) -> None:
        """Raises LaunchError; BusError, OSError where it is scaled, but cannot keep that."""

    def room(self, replicas: Mapping[str, int]) -> str:
        """Why there is none for so many workers; "": there is."""


class Log(Protocol):
    """Of the run's steps."""

    @property
    def rows(self) -> Sequence[Row]:
        """Of metrics.jsonl, by now."""


class Course(Protocol):
    @property
    def steps(self) -> int:
        """Of the run, as far as is known by now."""


def scales_itself(spec: RunSpec) -> str:
    """Why nobody else may change the number of generators, and what to do; "": they may."""
    generator, field = spec.resources.generator, "resources.generator.autoscale"
    limits = generator.autoscale
    if generator.max_replicas is not None:
        field = "resources.generator.max_replicas"
        return (
            f"generators: free agents join the run up to {generator.max_replicas} of them ({field}). Stop it, and "
            f"resume it with --set {field}=N for another limit, or with --set {field}=null to scale it by hand"
        )
    if limits.max is None:
        return ""
    return (
        f"generators: the run scales itself between {limits.min} and {limits.max} of them ({field}). Stop it, and "
        f"resume it with --set {field}.max=N for another limit, or with --set {field}=null to scale it by hand"
    )


class Autoscaler:
    """Looks every second whether a step was trained; what its measures mean is dapo.algo.scaling's to say.

    Promises: one change at a time, each after a window of steps of its own; none beyond the spec's limits or what there
    is room for, which is told once until the number changes; none that would come for fewer steps than a window.
    Restart: the number is in the spec that the run keeps, steps in metrics.jsonl. A window is measured anew.
    """

    def __init__(self, run: Scalable, log: Log, course: Course, emit: Emit) -> None:
        self._run = run
        self._log = log
        self._course = course
        self._emit = emit
        self._since = self._seen = 0
        self._told = False

    async def run(self) -> None:
        """Until cancelled; at once where the run does not scale itself."""
        if self._run.spec.resources.generator.autoscale.max is None:
            return
        self._since = self._seen = _last_step(self._log.rows)
        while True:
            await asyncio.sleep(_LOOK_S)
            if (step := _last_step(self._log.rows)) > self._seen:
                self._seen = step
                try:
                    await self._follow()
                except BusError as error:
                    log.warning("what the number of generators should be is not told: %s", error)

    async def _follow(self) -> None:
        generator = self._run.spec.resources.generator
        limits = generator.autoscale
        advice = demand(self._run.spec, self._log.rows, self._since)
        more = advice.wanted > generator.replicas
        if advice.wanted == generator.replicas or (more and self._seen + limits.window_steps > self._course.steps):
            return
        number, lacking = self._possible(generator.replicas, advice.wanted) if more else (advice.wanted, "")
        if number == generator.replicas:
            return await self._tell(advice, lacking)
        short = f". For {advice.wanted}, which are wanted, there is no room: {lacking}" if lacking else ""
        try:
            await self._run.scale(Scale({"generator": number}, advice.reason + short, "autoscale"))
        except LaunchError as error:
            return await self._tell(advice, str(error))
        except (BusError, OSError) as error:
            log.warning("the number of generators is another, but a restart would not know of it: %s", error)
        self._since, self._told = self._seen, False

    def _possible(self, count: int, wanted: int) -> tuple[int, str]:
        """The most that there is room for up to `wanted`, and what is lacking for the rest."""
        lacking = ""
        for number in range(wanted, count, -1):
            if not (found := self._run.room({"generator": number})):
                return number, lacking
            lacking = lacking or found
        return count, lacking

    async def _tell(self, advice: Advice, lacking: str) -> None:
        if self._told:
            return
        message = f"{advice.wanted} generators are wanted, and there is no room: {lacking} ({advice.reason})"
        await self._emit(Alert(cause="no_room", message=message, severity="notice"))
        self._told = True


def demand(spec: RunSpec, rows: Sequence[Row], since: int = 0) -> Advice:
    """As dapo.algo.scaling.advise, for a run of this spec; whoever scales one that does not scale itself has limits of
    their own."""
    autoscale = spec.resources.generator.autoscale
    limits = Limits(autoscale.min, autoscale.max, autoscale.window_steps)
    responses = spec.training.prompts_per_step * spec.sampling.group_size
    return advise(rows, responses=responses, count=generators_of(spec, rows), limits=limits, since=since)


def generators_of(spec: RunSpec, rows: Sequence[Row]) -> int:
    """That the run has. The spec knows of a run that scales itself; an autoscaler of a cluster changes no spec, so of
    others the newest step does."""
    generator = spec.resources.generator
    measured = rows[-1].get("generators") if rows and generator.autoscale.max is None else None
    return round(measured) if measured else generator.replicas


def _last_step(rows: Sequence[Row]) -> int:
    return round(rows[-1]["step"] or 0) if rows else 0
