"""How what a run that has ended holds is deleted."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from dapo.bus import BusError
from dapo.records.folder import RunFolder
from dapo.records.identity import FolderLock, RunDirError
from dapo.spec.load import load_spec
from dapo.spec.problem import SpecError
from dapo.spec.run import RunSpec
from services.orchestrator.fleet.elsewhere import Elsewhere
from services.orchestrator.fleet.errors import RunConflict, unusable
from services.orchestrator.fleet.past import delete_folder, delete_rest
from services.orchestrator.records.exports import exports, under_way
from services.orchestrator.records.turns import taking_turns
from services.orchestrator.runs.redis import RunRedis


class Owner(Protocol):
    """What is to be known of the service's runs."""

    def leads(self, run_id: str) -> bool: ...
    def shares(self, spec: RunSpec) -> bool: ...
    async def folder(self, run_id: str) -> Path: ...
    async def rest(self, run_id: str) -> Path | None: ...


class Removal:
    """Of the runs of one service.

    Both methods raise RunNotFound, NoAnswer, RunConflict where the run has not ended, perhaps elsewhere, or Redis
    refuses.
    """

    def __init__(self, runs: Owner, redis_url: str | None, owner: str, others: Elsewhere | None) -> None:
        self._runs = runs
        self._redis_url = redis_url
        self._owner = owner
        self._others = others

    async def purge(self, run_id: str) -> None:
        """What a run holds in Redis; its folder stays. It can go on from a checkpoint only."""
        await self._remove(run_id, "purged")

    async def delete(self, run_id: str, *, checkpoints: bool) -> None:
        """A run, with its folder; without `checkpoints` those, the exports and the spec stay there, until it is deleted
        with them."""
        if checkpoints and (rest := await self._runs.rest(run_id)) is not None:
            try:
                return await asyncio.to_thread(delete_rest, rest)
            except OSError as error:
                raise RunConflict(f"what is left of run {run_id} could not be deleted: {error}") from error
        await self._remove(run_id, "deleted", lambda folder: delete_folder(folder, checkpoints=checkpoints))

    async def _remove(self, run_id: str, what: str, clear: Callable[[Path], None] | None = None) -> None:
        if self._runs.leads(run_id):
            raise RunConflict(f"run {run_id} goes on: stop it first")
        folder = await self._runs.folder(run_id)
        if self._others is not None and await self._others.goes_on(run_id):
            raise RunConflict(f"run {run_id} is queued, or goes on elsewhere: stop or cancel it first")
        try:
            spec = load_spec(RunFolder(folder).spec)
            lock = FolderLock(folder, shared=self._runs.shares(spec))
            try:
                redis = RunRedis(run_id, folder, spec.resources, self._redis_url)
                if clear is None:
                    await redis.purge(self._owner)
                else:
                    async with taking_turns(folder):
                        if busy := under_way(await asyncio.to_thread(exports, folder)):
                            raise RunConflict(f"run {run_id} is being exported ({', '.join(busy)}): wait for that")
                        await redis.purge(self._owner)
                        await asyncio.to_thread(clear, folder)
            finally:
                lock.release()
            if self._others is not None:
                await self._others.forget(run_id)
        except (SpecError, BusError, RunDirError, OSError) as error:
            raise unusable(f"run {run_id} could not be {what}", error, folder) from error
