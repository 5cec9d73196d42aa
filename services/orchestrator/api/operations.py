"""The operations of the run service as both faces offer them; each that changes something is recorded."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dapo.host.storage import in_words, is_storage_error
from dapo.policy import Admission
from dapo.v1 import run_pb2 as pb
from services.orchestrator.api.errors import ERRORS, kind_of
from services.orchestrator.catalogue.checkpoints import CheckpointView, checkpoints
from services.orchestrator.catalogue.examination import Examination, examine
from services.orchestrator.catalogue.exporter import Exporter, ExportRequest
from services.orchestrator.catalogue.idempotency import Idempotency
from services.orchestrator.catalogue.listing import MOST, Page, Wanted
from services.orchestrator.catalogue.logs import MOST_LINES, find_log, log_names, read_log
from services.orchestrator.fleet.errors import BadField, StorageRefused
from services.orchestrator.fleet.service import RunService
from services.orchestrator.metrics.collector import Collector
from services.orchestrator.reading.queries import Queries
from services.orchestrator.records.exports import Export, exports, find_file
from services.orchestrator.records.remarks import UNSAID, Edit, Remarks
from services.orchestrator.runs.questions import NoAnswer, read_folder
from services.orchestrator.security.access import Caller
from services.orchestrator.security.audit import Details
from services.orchestrator.security.guard import Guard

_KNOWN = tuple(ERRORS)


@dataclass
class _Entry:
    """Of the audit, while the operation goes on."""

    run: str


class Operations:
    """What changes runs, each with its caller, and what is asked beside them. The rest the faces ask `runs` and
    `queries` for.

    Every method that changes something raises what the method of RunService of its name does, and StorageRefused.
    """

    def __init__(
        self,
        runs: RunService,
        guard: Guard | None = None,
        *,
        admission: Admission | None = None,
        state_dir: Path | None = None,
    ) -> None:
        """`admission`: as of `runs`. `state_dir`: where keys of requests are kept; None: as long as this process."""
        self.runs = runs
        self.guard = guard or Guard()
        self.queries = Queries(runs)
        self.collector = Collector(runs, lambda: self.guard.open_streams)
        self._admission = admission
        self._state_dir = state_dir
        self._requests = Idempotency(state_dir)
        self._exporter = Exporter()

    async def create(
        self, caller: Caller, spec: str, run_dir: str = "", remarks: Remarks = UNSAID, key: str = ""
    ) -> tuple[pb.Run, bool]:
        """The run and whether it is an earlier one: the same `key` of the same caller makes one run.

        Also raises KeyReused.
        """
        with self._recorded(caller, "create_run", "", {"run_dir": run_dir} if run_dir else {}) as entry:
            entry.run, again = await self._begin(caller, spec, run_dir, remarks, key)
            try:
                return await self.runs.get(entry.run), again
            except NoAnswer as error:
                raise NoAnswer(f"run {entry.run} was made, but cannot be shown: {error}") from error

    async def _begin(self, caller: Caller, spec: str, run_dir: str, remarks: Remarks, key: str) -> tuple[str, bool]:
        async def make() -> str:
            return await self.runs.begin(spec, run_dir, remarks)

        if not key:
            return await make(), False
        request = [spec, run_dir, dict(remarks.labels), remarks.notes, remarks.priority]
        # Carried through though its caller leaves: else nobody would know what became of it.
        once = asyncio.ensure_future(
            self._requests.once(json.dumps([caller.name, key]), json.dumps(request, sort_keys=True), make)
        )
        return await asyncio.shield(once)

    async def resume(self, caller: Caller, run_id: str, overrides: Sequence[str]) -> pb.Run:
        # The names alone: values may be secrets, where somebody has put one into a spec.
        details: Details = {"set": [one.partition("=")[0] for one in overrides]} if overrides else {}
        with self._recorded(caller, "resume_run", run_id, details):
            return await self.runs.resume(run_id, overrides)

    async def stop(self, caller: Caller, run_id: str) -> pb.Run:
        with self._recorded(caller, "stop_run", run_id):
            return await self.runs.stop(run_id)

    async def cancel(self, caller: Caller, run_id: str) -> pb.Run:
        with self._recorded(caller, "cancel_run", run_id):
            return await self.runs.cancel(run_id)

    async def update(
        self, caller: Caller, run_id: str, edit: Edit, generators: int | None, verifiers: int | None
    ) -> pb.Run:
        # Of labels and notes which were changed, and not what they say: that is in the run.
        wanted = {
            "generators": generators,
            "verifiers": verifiers,
            "labels": sorted(edit.labels) or None,
            "notes": True if edit.notes is not None else None,
            "priority": edit.priority,
        }
        details: Details = {name: value for name, value in wanted.items() if value is not None}
        with self._recorded(caller, "update_run", run_id, details):
            return await self.runs.update(run_id, edit, generators=generators, verifiers=verifiers)

    async def purge(self, caller: Caller, run_id: str) -> None:
        with self._recorded(caller, "purge_run", run_id):
            await self.runs.purge(run_id)

    async def delete(self, caller: Caller, run_id: str, *, checkpoints: bool) -> None:
        with self._recorded(caller, "delete_run", run_id, {"checkpoints": checkpoints}):
            await self.runs.delete(run_id, checkpoints=checkpoints)

    async def requeue(self, caller: Caller, run_id: str, group_id: str) -> None:
        with self._recorded(caller, "requeue_group", run_id, {"group": group_id}):
            await self.runs.requeue(run_id, group_id)

    async def export(self, caller: Caller, run_id: str, request: ExportRequest) -> Export:
        """As Exporter.ask; also raises RunNotFound."""
        details: Details = {name: value for name, value in request._asdict().items() if value not in (None, "", False)}
        with self._recorded(caller, "export_run", run_id, details):
            return await self._exporter.ask(await self.runs.folder(run_id), request)

    async def exports(self, run_id: str) -> Sequence[Export]:
        """Those of the newest step first. Raises RunNotFound, FolderUnreadable."""
        folder = await self.runs.folder(run_id)
        return await read_folder(lambda: exports(folder))

    async def export_file(self, run_id: str, name: str, file: str) -> Path:
        """Raises RunNotFound, ExportNotFound, FolderUnreadable."""
        folder = await self.runs.folder(run_id)
        return await read_folder(lambda: find_file(folder, name, file))

    async def close(self) -> None:
        """End what goes on; a service that starts again takes up runs, and no exports."""
        await asyncio.gather(self._exporter.close(), self.runs.close())

    async def list(self, wanted: Wanted, limit: int, cursor: str) -> Page:
        """A page of the runs. Raises BadField."""
        if not 1 <= limit <= MOST:
            raise BadField("limit", f"a page has 1 to {MOST} runs", limit)
        return wanted.page(await self.runs.list(), limit, cursor)

    async def examine(self, spec: str, overrides: Sequence[str]) -> Examination:
        """What a spec would be as a run here."""
        return await asyncio.to_thread(examine, spec, overrides, self._admission, self.runs.misfits)

    async def checkpoints(self, run_id: str) -> Sequence[CheckpointView]:
        """The newest first. Raises RunNotFound, FolderUnreadable."""
        folder = await self.runs.folder(run_id)
        return await read_folder(lambda: checkpoints(folder))

    async def log_names(self, run_id: str) -> Sequence[str]:
        """Raises RunNotFound."""
        return await asyncio.to_thread(log_names, await self.runs.folder(run_id))

    async def tail(self, run_id: str, worker: str, lines: int, *, follow: bool) -> AsyncIterator[str]:
        """The last lines of a worker's log, and with `follow` those that come until the run ends.

        Raises RunNotFound, LogNotFound, BadField.
        """
        if not 1 <= lines <= MOST_LINES:
            raise BadField("lines", f"1 to {MOST_LINES} may be", lines)
        path = await asyncio.to_thread(find_log, await self.runs.folder(run_id), worker)

        async def over() -> bool:
            return await self.runs.is_over(run_id)

        return read_log(path, lines, follow=follow, over=over)

    @contextmanager
    def _recorded(self, caller: Caller, operation: str, run: str, details: Details | None = None) -> Iterator[_Entry]:
        entry, outcome = _Entry(run), "failed"
        try:
            yield entry
            outcome = "ok"
        except _KNOWN as error:
            outcome = kind_of(error).name
            raise
        except OSError as error:
            if not is_storage_error(error):
                raise
            outcome = ERRORS[StorageRefused].name
            raise StorageRefused(in_words(error, self._state_dir)) from error
        except asyncio.CancelledError:
            outcome = "caller left"  # The run service carries on with what it had begun.
            raise
        finally:
            self.guard.audit.write(caller, operation, entry.run, outcome, details or {})
