"""Runs that are over, but whose objects are still in the cluster."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from services.orchestrator.launch.kubernetes.api import KubernetesApi, Manifest
from services.orchestrator.launch.kubernetes.names import RUN, common_labels, selector
from services.orchestrator.launch.kubernetes.objects import TARGET
from services.orchestrator.launch.launcher import LaunchError

log = logging.getLogger(__name__)

_LOOK_S = 60.0


class Sweep:
    """Deletes what a run has left whose end was written by a service that did not have its workers: one that was
    stopped while nobody led it, or whose folder was deleted. Without it such pods would keep their GPUs for ever.

    Restart: nothing is kept; it looks once a minute.
    """

    def __init__(
        self,
        api: KubernetesApi,
        instance: str,
        state_dir: Path,
        *,
        is_done: Callable[[Path], bool],
        knows: Callable[[str], bool],
        stop: Callable[[str], Awaitable[None]],
    ) -> None:
        """`is_done`: whether the run in a folder has ended, or none is there. `knows`: whether a run goes on here."""
        self._api = api
        self._labels = {"labelSelector": f"{selector(common_labels(instance))},{RUN}"}
        self._state_dir = state_dir
        self._is_done = is_done
        self._knows = knows
        self._stop = stop

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.look()
            except LaunchError as error:
                log.warning("what ended runs have left in the cluster is looked for again later: %s", error)
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Raises LaunchError."""
        for owner in await self._api.find_all("ConfigMap", self._labels):
            run_id, folder = _target(owner)
            if (
                not run_id
                or self._knows(run_id)
                or not await asyncio.to_thread(self._is_done, self._state_dir / folder)
            ):
                continue
            log.warning("run %s is over, and its workers are still there: they are stopped", run_id)
            await self._stop(run_id)


def _target(owner: Manifest) -> tuple[str, str]:
    """Id and folder of the run that a ConfigMap owns; "" of one that somebody has damaged."""
    try:
        found = json.loads(owner["data"][TARGET])
        return found["run_id"], found["folder"]
    except (KeyError, ValueError, TypeError):
        return "", ""
