"""How runs are ended on request, whoever leads them."""

from pathlib import Path
from typing import Protocol

from dapo.bus import BusError
from dapo.bus.index import Desired
from dapo.host.storage import in_words
from dapo.records.folder import RunFolder
from dapo.records.identity import RunDirError
from dapo.spec.load import load_spec
from dapo.spec.problem import SpecError
from dapo.spec.run import RunSpec
from services.orchestrator.fleet.drivers import Drivers
from services.orchestrator.fleet.elsewhere import Elsewhere
from services.orchestrator.fleet.errors import RunConflict
from services.orchestrator.queue.entries import AlreadyLed
from services.orchestrator.queue.line import Line
from services.orchestrator.runs.driver import RunDriver
from services.orchestrator.runs.outcome import CANCELLED, STOPPED, RunOutcome, has_end

_STOP_S = 60.0
"""How long a leader has to end its workers and to write the run's end."""


class Owner(Protocol):
    """What is to be known of the service's runs."""

    def shares(self, spec: RunSpec) -> bool: ...
    async def folder(self, run_id: str) -> Path: ...


class Endings:
    """Of the runs of one service. A run that has ended stays as it is. One that another instance leads is ended by
    that one; one that waits, or that nobody leads, is out of the queue, with its end.

    Both methods return the run's driver, where it went on here. They raise RunNotFound, NoAnswer where Redis does not
    answer, RunConflict where the leader has not ended the run a minute after its time, or its end cannot be written.
    """

    def __init__(self, runs: Owner, drivers: Drivers, others: Elsewhere | None, line: Line | None) -> None:
        self._runs = runs
        self._drivers = drivers
        self._others = others
        self._line = line

    async def stop(self, run_id: str) -> RunDriver | None:
        """Have the learner write a checkpoint, within `checkpoint.on_stop_s`, then end the run's processes and return
        once they are gone and the checkpoint is in its mirror, within `checkpoint.mirror_wait_s`."""
        return await self._end(run_id, STOPPED, Desired.STOPPED)

    async def cancel(self, run_id: str) -> RunDriver | None:
        """End the run's processes and return once they are gone. What is not in a checkpoint by then may be lost."""
        return await self._end(run_id, CANCELLED, Desired.CANCELLED)

    async def _end(self, run_id: str, outcome: RunOutcome, desired: Desired) -> RunDriver | None:
        driver = await self._drivers.telling(run_id)
        if driver is None or driver.over:
            if self._others is not None and await self._others.goes_on(run_id):
                await self._end_elsewhere(self._others, run_id, outcome, desired)
            return None
        if self._others is not None:
            # First, so that nobody goes on with it if this service dies now; without an answer it ends all the same.
            await self._others.insist_on_end(run_id, desired)
        await driver.stop(outcome, save=outcome == STOPPED)
        return driver

    async def _end_elsewhere(self, others: Elsewhere, run_id: str, outcome: RunOutcome, desired: Desired) -> None:
        # First: nobody starts it from now on.
        await others.want_ended(run_id, desired)
        folder = await self._runs.folder(run_id)
        try:
            spec = load_spec(RunFolder(folder).spec)
            if await others.leader(run_id) is None and await self._conclude(folder, spec, outcome):
                return
            saving_s = spec.checkpoint.stop_s if outcome == STOPPED else 0.0
            await others.until_ended(run_id, saving_s + _STOP_S)
            # Else its leader died over it.
            if not has_end(folder) and not await self._conclude(folder, spec, outcome):
                raise RunConflict(f"run {run_id} goes on again: it was resumed meanwhile")
        except (SpecError, BusError, RunDirError, OSError) as error:
            raise RunConflict(
                f"nobody goes on with run {run_id}, but its end cannot be written: {in_words(error, folder)}"
            ) from error

    async def _conclude(self, folder: Path, spec: RunSpec, outcome: RunOutcome) -> bool:
        """Whether nobody leads the run, so that its end could be written."""
        assert self._line is not None, "without a queue there is nothing elsewhere"
        try:
            await self._line.conclude(folder, spec, outcome, shared=self._runs.shares(spec))
        except AlreadyLed:
            return False
        return True
