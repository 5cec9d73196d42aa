"""How a run grows into free agents, and gives up generators whose agents have gone."""

import asyncio
import logging
from typing import Protocol

from dapo.bus import BusError
from dapo.spec.run import RunSpec
from services.orchestrator.control.scaling import Scale
from services.orchestrator.launch.launcher import Launcher, LaunchError, WorkerState, WorkerStatus

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_LOOKS = 5
"""So many looks in a row a generator is without an agent before the run goes on without it: one that is free takes it
over sooner."""
_NAME = "generator-"


class Growing(Protocol):
    """A run that goes on."""

    @property
    def run_id(self) -> str: ...

    @property
    def spec(self) -> RunSpec:
        """As it is at the moment."""

    async def scale(self, scale: Scale) -> None:
        """Raises LaunchError; BusError, OSError where it is scaled, but cannot keep that."""

    def room(self, replicas: dict[str, int]) -> str:
        """Why there is none for so many workers; "": there is."""


class Growth:
    """Looks every second whether agents are free for a run with `resources.generator.max_replicas`, or generators have
    lost theirs.

    Promises: never more generators than that, nor fewer than one; each change is told with its reason; one at a time.
    Restart: the number is in the spec that the run keeps.
    """

    def __init__(self, run: Growing, launcher: Launcher) -> None:
        self._run = run
        self._launcher = launcher
        self._short = 0
        """Looks in a row at which generators were without an agent."""

    async def run(self) -> None:
        """Until cancelled; at once where the run does not grow. Raises LaunchError where agents cannot be seen."""
        if self._run.spec.resources.generator.max_replicas is None or not self._launcher.elastic:
            return
        while True:
            await asyncio.sleep(_LOOK_S)
            await self.look()

    async def look(self) -> None:
        """Once."""
        generator = self._run.spec.resources.generator
        count, most = generator.replicas, generator.max_replicas or generator.replicas
        statuses = await self._launcher.observe(self._run.run_id)
        placed = [one for one in statuses if one.worker_id.startswith(_NAME) and not _taken_away(one)]
        self._short = self._short + 1 if len(placed) < count else 0
        if self._short >= _LOOKS:
            self._short = 0
            gone = count - len(placed)
            await self._scale(max(1, len(placed)), f"{gone} of its agents {'are' if gone > 1 else 'is'} gone")
        elif not self._short and (wanted := self._possible(count, most)) > count:
            came = wanted - count
            await self._scale(wanted, f"{came} agent{'s' * (came > 1)} came free, and the run wants up to {most}")

    def _possible(self, count: int, most: int) -> int:
        return next((number for number in range(most, count, -1) if not self._run.room({"generator": number})), count)

    async def _scale(self, number: int, reason: str) -> None:
        if number == self._run.spec.resources.generator.replicas:
            return
        try:
            await self._run.scale(Scale({"generator": number}, reason, "agents"))
        except LaunchError as error:
            log.warning("the run stays with its generators: %s", error)
        except (BusError, OSError) as error:
            log.warning("the number of generators is another, but a restart would not know of it: %s", error)


def _taken_away(status: WorkerStatus) -> bool:
    """Its agent has gone, or there is none that has it."""
    return status.state == WorkerState.FAILED and status.code is not None
