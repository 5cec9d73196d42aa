"""The runs that go on in this process, or have gone on in it."""

from collections.abc import Iterator

from dapo.records.folder import RunFolder
from services.orchestrator.fleet.elsewhere import Elsewhere
from services.orchestrator.runs.driver import RunDriver


class Drivers:
    """By run, the latest driver.

    It knows best of its run while that goes on here. Afterwards others may go on with the run and end it again, so
    its folder knows best, or whoever leads it, and the driver is dropped; not one of an end that could not be written.
    """

    def __init__(self, others: Elsewhere | None) -> None:
        """`others`: that may go on with runs of this process."""
        self._others = others
        self._drivers: dict[str, RunDriver] = {}

    def __iter__(self) -> Iterator[RunDriver]:
        return iter(list(self._drivers.values()))

    def add(self, driver: RunDriver) -> None:
        self._drop_ended()
        self._drivers[driver.run_id] = driver

    def remove(self, run_id: str) -> None:
        self._drivers.pop(run_id, None)

    def last(self, run_id: str) -> RunDriver | None:
        """Whatever it knows."""
        return self._drivers.get(run_id)

    def leads(self, run_id: str) -> bool:
        """Whether the run goes on here."""
        driver = self.last(run_id)
        return driver is not None and not driver.over

    async def telling(self, run_id: str) -> RunDriver | None:
        """The driver, where it knows best. Raises NoAnswer."""
        self._drop_ended()
        driver = self.last(run_id)
        if driver is None or driver.left:
            return None
        if driver.over and self._others is not None and await self._others.goes_on(run_id):
            return None
        return driver

    def that_may_tell(self) -> list[RunDriver]:
        """Those that know best, but for what others tell of runs that they lead."""
        self._drop_ended()
        return [driver for driver in self if not driver.left]

    def _drop_ended(self) -> None:
        """Those of which the folder knows best from now on: with its rows a driver is as large as its run is long."""
        for driver in self:
            if driver.over and (driver.left or self._is_written(driver)):
                self.remove(driver.run_id)

    def _is_written(self, driver: RunDriver) -> bool:
        return self._others is not None and RunFolder(driver.run_dir).summary.exists()

    async def refuse_where_led(self, run_id: str) -> None:
        """Raises RunConflict, naming the leader, where another instance leads the run; NoAnswer."""
        if self._others is not None and not self.leads(run_id):
            await self._others.refuse(run_id)
