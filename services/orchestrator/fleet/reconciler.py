"""Takes up the runs of a service that nobody leads, ends those that are to stop, and does with those that it leads what
other instances ask for."""

import asyncio
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from dapo.bus import BusError
from dapo.bus.index import Desired, Listed, Record, RunIndex
from dapo.records.folder import RunFolder
from dapo.records.identity import RunDirError, read_identity
from dapo.spec.load import load_spec
from services.orchestrator.fleet.past import run_folders
from services.orchestrator.fleet.rule import Action, Folder, judge
from services.orchestrator.queue.line import Candidate
from services.orchestrator.runs.outcome import has_end
from services.orchestrator.runs.questions import NoAnswer

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_ANSWER_S = 5.0
_UNLISTED = 200
"""At most, in one look."""


class Leads(Protocol):
    """The runs that this instance leads."""

    def leads(self, run_id: str) -> bool: ...

    async def lead(self, folder: Path) -> None:
        """Go on with the run in a folder. Raises LookupError, ValueError, RuntimeError, OSError in words."""

    async def take(self, candidates: Sequence[Candidate]) -> None:
        """Lead those of these runs that there is room for. Raises NoAnswer."""

    async def end(self, run_id: str, *, save: bool) -> None:
        """End a run that this instance leads; `save`: in order."""

    async def carry_out(self, run_id: str, wish_id: str, text: str) -> None:
        """What another instance asks for, of a run that this one leads. Raises BusError."""


class Reconciler:
    """Compares, every second, what is wanted of each run with who leads it.

    Restart: what is wanted is in the index.
    """

    def __init__(self, index: RunIndex, runs: Leads, owner: str, root: Path) -> None:
        """`root`: only folders below it are this instance's."""
        self._index = index
        self._runs = runs
        self._owner = owner
        self._root = root
        self._ending: dict[tuple[str, Action], asyncio.Task[None]] = {}
        self._granting: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Once at the start: have the index know of runs in folders that have no end and that an earlier Redis had
        listed; lead those that name a Redis of their own. Then look. Raises BusError."""
        known = {run.run_id for run in await self._index.runs()}
        for folder in await asyncio.to_thread(run_folders, self._root):
            try:
                identity = read_identity(folder)
                if not identity.taken_up or identity.run_id in known or has_end(folder):
                    continue
                spec = load_spec(RunFolder(folder).spec)
                if spec.resources.redis.url is None:
                    await self._index.want(identity.run_id, Desired.RUNNING)
                    await self._index.add(Listed(identity.run_id, str(folder), identity.created_at, spec.name))
                else:
                    await self._runs.lead(folder)
            except (LookupError, ValueError, RuntimeError, OSError) as error:
                log.error("the run in %s does not go on: %s", folder, error)
        try:
            await self.look()
        except NoAnswer as error:
            log.warning("runs that nobody leads wait: %s", error)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_ANSWER_S):
                    await self.look()
            except (BusError, NoAnswer, TimeoutError) as error:
                log.warning(
                    "the runs of the service cannot be seen: %s", str(error) or f"no answer for {_ANSWER_S:g} s"
                )
            await asyncio.sleep(_LOOK_S)

    async def look(self) -> None:
        """Once. Raises BusError, NoAnswer."""
        runs = await self._index.runs()
        # Asked before what is wanted: of a run that is resumed meanwhile that may be its former end.
        led = {run.run_id for run in runs if self._runs.leads(run.run_id)}
        records = await self._index.read([run.run_id for run in runs])
        candidates, over = [], []
        for run in runs:
            record, leads = records[run.run_id], run.run_id in led
            if record.desired is None:
                continue
            if record.desired != Desired.RUNNING and not leads:
                if record.holder is None:
                    over.append((run, record))
                continue
            if leads:
                self._grant(run.run_id, record.wishes)
            folder, candidate = await asyncio.to_thread(self._folder, run, record)
            action = judge(record, folder, owner=self._owner, leads=leads)
            if action == Action.LEAD and candidate is not None:
                candidates.append(candidate)
            await self._act(action, run)
        await self._unlist(over)
        await self._runs.take(candidates)

    async def _unlist(self, over: Sequence[tuple[Listed, Record]]) -> None:
        """Some of them, whose folders tell how they have ended: nobody asks the index about them."""

        def ended() -> list[str]:
            some = random.sample(over, min(len(over), _UNLISTED))  # any: of some no folder may ever tell
            return [run.run_id for run, record in some if self._folder(run, record)[0] == Folder.ENDED]

        if over:
            await self._index.unlist(await asyncio.to_thread(ended))

    async def _act(self, action: Action, run: Listed) -> None:
        if action == Action.SETTLE:
            await self._index.want(run.run_id, Desired.STOPPED)
        elif action in (Action.STOP, Action.CANCEL) and (key := (run.run_id, action)) not in self._ending:
            task = asyncio.create_task(self._runs.end(run.run_id, save=action == Action.STOP))
            self._ending[key] = task
            task.add_done_callback(lambda _: self._ending.pop(key))

    def _grant(self, run_id: str, wishes: Mapping[str, str]) -> None:
        for wish_id, text in wishes.items():
            task = asyncio.create_task(self._carry_out(run_id, wish_id, text))
            self._granting.add(task)
            task.add_done_callback(self._granting.discard)

    async def _carry_out(self, run_id: str, wish_id: str, text: str) -> None:
        try:
            await self._runs.carry_out(run_id, wish_id, text)
        except BusError as error:
            log.warning("who asked for something of run %s is not told what became of it: %s", run_id, error)

    def _folder(self, run: Listed, record: Record) -> tuple[Folder, Candidate | None]:
        folder = Path(run.run_dir)
        try:
            if not folder.resolve().is_relative_to(self._root):
                return Folder.ELSEWHERE, None
            identity = read_identity(folder)
        except (RunDirError, OSError):
            return Folder.ELSEWHERE, None
        if identity.run_id != run.run_id:
            return Folder.ELSEWHERE, None
        if record.history and record.history != identity.history:
            return Folder.MOVED, None
        return Folder.ENDED if has_end(folder) else Folder.UNDER_WAY, Candidate(folder, identity)
