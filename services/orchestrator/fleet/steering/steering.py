"""What only a run's leader can do, asked of any instance of the service."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from dapo.bus import BusError
from services.orchestrator.control.scaling import Scale, scales_itself
from services.orchestrator.fleet.drivers import Drivers
from services.orchestrator.fleet.elsewhere import Elsewhere
from services.orchestrator.fleet.errors import RunConflict
from services.orchestrator.fleet.steering.wishes import Wishes
from services.orchestrator.launch.launcher import LaunchError
from services.orchestrator.runs.driver import RunDriver
from services.orchestrator.runs.outcome import RunFailed


class Owner(Protocol):
    """What is to be known of the service's runs."""

    async def folder(self, run_id: str) -> Path: ...
    def waits(self, run_id: str) -> bool: ...


class Steering:
    """Has the leader do it, which is this instance or another.

    Every method raises RunNotFound, RunConflict where the run does not go on, and NoAnswer.
    """

    def __init__(self, runs: Owner, drivers: Drivers, others: Elsewhere | None, wishes: Wishes | None) -> None:
        """`others` and `wishes`: where other instances may lead runs."""
        self._runs = runs
        self._drivers = drivers
        self._others = others
        self._wishes = wishes

    async def scale(self, run_id: str, replicas: Mapping[str, int]) -> None:
        """Have so many workers of each role. Also raises RunConflict where the machine has no room for them, or they
        are there but a resume would not know of them, or it scales its generators itself."""
        await self._steer(run_id, "scale", {"replicas": dict(replicas)})

    async def requeue(self, run_id: str, group_id: str) -> None:
        """Have the prompt of a failed group issued once more. Raises GroupNotFound, NotRequeued."""
        await self._steer(run_id, "requeue", {"group": group_id})

    async def carry_out(self, run_id: str, wish_id: str, text: str) -> None:
        """What another instance was asked to have done with a run that this one leads. Raises BusError."""
        assert self._wishes is not None, "nobody asks"
        await self._wishes.carry_out(run_id, wish_id, text, lambda what, asked: self._do(run_id, what, asked))

    async def _steer(self, run_id: str, what: str, arguments: Mapping[str, Any]) -> None:
        elsewhere = self._others is not None and not self._drivers.leads(run_id)
        if elsewhere and self._others is not None and self._wishes is not None and await self._others.leader(run_id):
            await self._wishes.have(run_id, what, arguments)
        else:
            await self._do(run_id, what, arguments)

    async def _do(self, run_id: str, what: str, arguments: Mapping[str, Any]) -> None:
        if (driver := self._drivers.last(run_id)) is None:
            await self._runs.folder(run_id)
            if self._runs.waits(run_id):
                raise RunConflict(f"run {run_id} waits for room: {_ADVICE[what](arguments)}")
            raise RunConflict(f"run {run_id} does not go on: resume it first")
        await _DONE[what](driver, arguments)


async def _scale(driver: RunDriver, arguments: Mapping[str, Any]) -> None:
    if "generator" in arguments["replicas"] and (why := scales_itself(driver.spec)):
        raise RunConflict(why)
    try:
        await driver.scale(Scale(arguments["replicas"]))
    except (RunFailed, LaunchError) as error:
        raise RunConflict(str(error)) from error
    except (BusError, OSError) as error:
        words = str(error) or "Redis does not answer"
        raise RunConflict(f"run {driver.run_id} is scaled until it ends, but cannot keep that: {words}") from error


async def _requeue(driver: RunDriver, arguments: Mapping[str, Any]) -> None:
    await driver.requeue(arguments["group"])


def _scale_later(arguments: Mapping[str, Any]) -> str:
    fields = (f"--set resources.{role}.replicas={number}" for role, number in arguments["replicas"].items())
    return f"cancel it, and resume it with {' '.join(fields)}"


_ADVICE: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "scale": _scale_later,
    "requeue": lambda arguments: "ask again once it goes on",
}
"""For a run that is in the queue."""
_DONE: Mapping[str, Callable[[RunDriver, Mapping[str, Any]], Awaitable[None]]] = {"scale": _scale, "requeue": _requeue}
