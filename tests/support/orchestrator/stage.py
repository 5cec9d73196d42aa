"""A run's driver with a launcher without processes, as tests play it."""

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from dapo.bus import Bus
from dapo.contracts.events import Alert, ServiceChanged, StateChanged, StepFinished
from dapo.records.identity import RunIdentity
from dapo.spec.run import RunSpec
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.driver import RunDriver
from services.orchestrator.runs.events import WatchedEvent
from services.orchestrator.runs.resumption import changes
from tests.support.orchestrator.control import STEPS, Workers
from tests.support.orchestrator.launcher import FakeLauncher
from tests.support.waiting import beside, eventually

RUN = "driven"
Play = Callable[["Stage"], Awaitable[None]]


class Stage:
    """A driver whose services are scripted."""

    def __init__(self, driver: RunDriver, launcher: FakeLauncher, folder: Path) -> None:
        self.driver = driver
        self.launcher = launcher
        self.folder = folder
        self.seen: list[WatchedEvent] = []

    async def bus(self) -> Bus:
        """Once the run is launched."""
        await eventually(lambda: self.launcher.applied)
        target, _ = self.launcher.applied[0]
        return await Bus.connect(target.redis_url, RUN, instance=secrets.token_hex(4))

    async def follow(self) -> None:
        async for event in self.driver.events.watch(""):
            self.seen.append(event)

    def states(self) -> list[str]:
        return [event.state for _, event in self.seen if isinstance(event, StateChanged)]

    def steps(self) -> int:
        return sum(isinstance(event, StepFinished) for _, event in self.seen)

    def alerts(self) -> list[str]:
        return [event.message for _, event in self.seen if isinstance(event, Alert)]

    def failure(self) -> ServiceChanged:
        events = (event for _, event in self.seen if isinstance(event, ServiceChanged))
        (failure,) = [event for event in events if event.state == "failed"]
        return failure

    def summary(self) -> dict:
        return json.loads((self.folder / "summary.json").read_text())


def run_stage(
    spec: RunSpec,
    folder: Path,
    play: Play,
    *,
    url: str | None,
    launcher: FakeLauncher | None = None,
    previous: RunSpec | None = None,
) -> Stage:
    """Plays until the run has ended, by itself or as `play` has it. `previous`: the run in the folder goes on."""

    async def main() -> Stage:
        placed = launcher or FakeLauncher()
        identity = RunIdentity(RUN, "2026-01-02T03:04:05.000+00:00", history="first")
        recorder = Recorder.reopen(folder, spec) if previous else Recorder.create(folder, spec, identity)
        changed = changes(previous, spec) if previous is not None else ()
        driver = RunDriver(spec, recorder, placed, redis_url=url, previous=previous, changed=changed)
        stage = Stage(driver, placed, folder)
        driver.start()
        watching = asyncio.create_task(stage.follow())
        await play(stage)
        async with asyncio.timeout(60):
            await watching
        await driver.stop()
        return stage

    return asyncio.run(main())


@contextlib.asynccontextmanager
async def services(bus: Bus) -> AsyncIterator[Workers]:
    """Scripted generator and verifier at work; every other response is right."""
    workers = Workers(bus, lambda group_id, index: index % 2 == 0)
    for role, worker in (("generator", "generator-0"), ("verifier", "verifier-0")):
        # What a predecessor of that name has left is a dead one's from now on.
        await bus.registry.beat(role, worker)
    async with beside(workers.generate("generator-0", 1), workers.verify()):
        yield workers


async def learn_to_the_end(stage: Stage, *, commit: bool) -> None:
    bus = await stage.bus()
    async with services(bus) as workers:
        await workers.learn()
        if commit:
            epoch = await bus.lease.acquire("learner")
            await bus.batches.commit_checkpoint(STEPS - 1, epoch)
        else:
            stage.launcher.end(RUN, "learner-0", 0)
        await eventually(lambda: stage.states()[-1] in ("succeeded", "failed"))
    await bus.close()
