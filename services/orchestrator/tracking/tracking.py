"""A run is told to the places that its spec names, beside everything else."""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Protocol

from dapo.bus import BusError, UnknownGroup
from dapo.bus.parts.records import GroupFacts
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import Alert, EvaluationFinished, Event, StepFinished
from dapo.spec.run import RunSpec
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.records.samples import Secure
from services.orchestrator.tracking.feed import Feed
from services.orchestrator.tracking.sink import TrackedRun, Trained
from services.orchestrator.tracking.sinks.choice import make_sink

log = logging.getLogger(__name__)

CLOSING_S = 30.0
_LOOK_S = 1.0
CAUSE = "tracking"


class Happenings(Protocol):
    """The events of the run, as services/orchestrator/runs/events.py has them."""

    @property
    def archived(self) -> str:
        """Id of the newest one of before."""

    def watch(self, after: str) -> AsyncIterator[tuple[str, Event]]: ...

    async def tell(self, event: Event) -> bool: ...


class Tracking:
    """Follows the run's events as any watcher does, and passes on what is final.

    Promises: no place slows the run or ends it, whatever it does; what people should know of it are alerts, each once;
    the end of the run waits for it CLOSING_S at most. Without places it does nothing.
    """

    def __init__(self, spec: RunSpec, recorder: Recorder, events: Happenings) -> None:
        self._spec = spec
        self._recorder = recorder
        self._events = events
        self._feeds: list[Feed] = []
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, bus: OrchestratorBus, secure: Secure) -> None:
        """The run's records are where it goes on. `secure` is awaited before anything new is passed on."""
        spec, recorder = self._spec, self._recorder
        run = TrackedRun(recorder.identity.run_id, recorder.run_dir, spec)
        for part in spec.tracking.parts:
            make = partial(make_sink, spec, part)
            self._feeds.append(Feed(part, make, run, recorder.rows, recorder.evaluations))
        for feed in self._feeds:
            feed.start()
        if self._feeds:
            self._tasks = [asyncio.create_task(self._follow(bus, secure)), asyncio.create_task(self._look())]
        for task in self._tasks:
            task.add_done_callback(_report)

    async def end(self, state: str, message: str) -> None:
        """Within CLOSING_S. The run's watchers can still be told. `state`, `message`: how it has ended."""
        for task in self._tasks:
            task.cancel()
        for feed in self._feeds:
            feed.end(state, message)
        deadline_s = time.monotonic() + CLOSING_S
        for feed in self._feeds:
            await asyncio.to_thread(feed.join, max(0.0, deadline_s - time.monotonic()))
        for feed in self._feeds:
            last = feed.last_words(CLOSING_S)
            await self._say([*feed.words(), *([last] if last else [])])

    def abandon(self) -> None:
        """Nothing more is told: the end was told, or others go on with the run."""
        for task in self._tasks:
            task.cancel()
        for feed in self._feeds:
            feed.leave()

    async def _follow(self, bus: OrchestratorBus, secure: Secure) -> None:
        async for _, event in self._events.watch(self._events.archived):
            await secure()
            await self._pass_on(event, bus)

    async def _pass_on(self, event: Event, bus: OrchestratorBus) -> None:
        match event:
            case StepFinished(row=row):
                trained = await self._find_trained(row["step"], bus)
                for feed in self._feeds:
                    feed.tell(row["step"], trained if feed.name == "opentelemetry" else None)
            case EvaluationFinished():
                for feed in self._feeds:
                    feed.tell(0)
            case Alert(message=message, severity=None):
                for feed in self._feeds:
                    feed.alert(message)

    async def _find_trained(self, step: int, bus: OrchestratorBus) -> Trained | None:
        """None of a step that has no trace."""
        tracing = self._spec.tracking.opentelemetry
        if tracing is None or step % tracing.every_steps:
            return None
        ended_ms = time.time_ns() // 1_000_000
        try:
            return Trained(await _some_groups(bus, step, tracing.groups_per_step), ended_ms)
        except BusError as error:
            log.warning("the trace of step %d has no groups: %s", step, error)
            return Trained([], ended_ms)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            for feed in self._feeds:
                await self._say(feed.words())

    async def _say(self, words: list[str]) -> None:
        for message in words:
            await self._events.tell(Alert(cause=CAUSE, message=message))


def _report(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and (error := task.exception()):
        log.error("a task of tracking has failed; what it lacks is told at the end: %s", error, exc_info=error)


async def _some_groups(bus: OrchestratorBus, step: int, count: int) -> list[GroupFacts]:
    """Of the batch of a step, evenly spread over it; none where it has left the log. Raises BusError."""
    batches = await bus.batches.read(step - 2, block_s=0, count=1) if count else []
    names = [group.group_id for one in batches if one.batch == step - 1 for group in one.groups]
    found = []
    for name in names[:: max(1, -(-len(names) // max(1, count)))]:
        with contextlib.suppress(UnknownGroup):
            found.append(await bus.groups.facts(name))
    return found
