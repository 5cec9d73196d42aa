"""How a run is changed from without: what people say of it, and how many workers it has."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from dapo.host.remembered import Remembered
from dapo.host.storage import in_words
from dapo.records.folder import RunFolder
from dapo.records.identity import name_of
from dapo.v1 import run_pb2 as pb
from services.orchestrator.fleet.errors import BadField, RunNotFound, unusable
from services.orchestrator.fleet.gate import Gate
from services.orchestrator.fleet.steering.steering import Owner, Steering
from services.orchestrator.records.remarks import UNSAID, Edit, Remarks, RemarksDamaged, changing, read_remarks
from services.orchestrator.runs.questions import FolderUnreadable

log = logging.getLogger(__name__)

_FILE = RunFolder(Path()).remarks.name
_MOST_REMEMBERED = 20_000


class Updates:
    """Of the runs of one service."""

    def __init__(self, runs: Owner, gate: Gate, steering: Steering) -> None:
        self._runs = runs
        self._gate = gate
        self._steering = steering
        self._remarks = Remembered(_remarks, (_FILE,), _MOST_REMEMBERED)
        self._under_way: set[asyncio.Task[None]] = set()

    async def update(self, run_id: str, edit: Edit, generators: int | None, verifiers: int | None) -> None:
        """All of it or nothing, though its caller leaves; None: as it is. What people say of a run may be changed
        whoever leads it, also after its end; the number of its workers only while it goes on.

        Raises RunNotFound, BadField for a number below 1 and where nothing is to change, BadRemark, SpecError for a
        number that is refused, StorageRefused where the folder cannot be written, RunConflict as Steering.scale,
        NoAnswer, FolderUnreadable.
        """
        replicas = self._gate.replicas(generators, verifiers)
        if edit.is_empty and not replicas:
            raise BadField("body", "nothing to change: give generators, verifiers, labels, notes or priority")
        folder = await self._runs.folder(run_id)
        task = asyncio.create_task(self._update(run_id, folder, edit, replicas))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        await asyncio.shield(task)

    async def _update(self, run_id: str, folder: Path, edit: Edit, replicas: Mapping[str, int]) -> None:
        try:
            async with contextlib.nullcontext() if edit.is_empty else changing(folder, edit):
                if replicas:
                    await self._steering.scale(run_id, replicas)
        except RemarksDamaged as error:
            raise FolderUnreadable(str(error)) from error
        except FileNotFoundError as error:
            raise RunNotFound(f"run {run_id} was deleted meanwhile") from error
        except OSError as error:
            raise unusable(f"run {run_id} is not changed", error, folder) from error

    async def told(self, runs: Sequence[pb.Run]) -> list[pb.Run]:
        """The runs, each with its name and with what people say of it at this moment."""
        return await asyncio.to_thread(lambda: [self._told(run) for run in runs])

    def _told(self, run: pb.Run) -> pb.Run:
        remarks = self._remarks.get(run.run_dir)
        said = pb.Run(name=name_of(run.id), labels=remarks.labels, notes=remarks.notes, priority=remarks.priority)
        said.MergeFrom(run)
        return said


def _remarks(folder: Path) -> Remarks:
    """Of a file that cannot be read nothing: the run is shown all the same."""
    try:
        return read_remarks(folder)
    except (OSError, RemarksDamaged) as error:
        log.warning("what is said of a run is not shown: %s", in_words(error, folder))
        return UNSAID
