"""What is asked of a run beside its state: each answer from its folder, or from its Redis while that is open."""

from collections.abc import Collection, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dapo.algo.scaling import HISTORY
from dapo.bus import GroupRecord
from dapo.bus.ledger import GroupState
from dapo.bus.questions import QuestionBus
from dapo.host.remembered import Briefly, Remembered
from dapo.records.evaluations import read_evaluations
from dapo.records.folder import RunFolder
from dapo.records.group_archive import read_archived_records
from dapo.records.measured.series import MOST_POINTS, Series, newest_rows, read_series
from dapo.records.samples import SampleFilter
from dapo.spec.load import load_spec, show_yaml
from dapo.spec.run import RunSpec
from dapo.telemetry.metrics import BY_NAME
from services.orchestrator.fleet.errors import BadField
from services.orchestrator.fleet.service import RunService
from services.orchestrator.reading import group_lists
from services.orchestrator.reading.group_lists import GroupLine
from services.orchestrator.reading.pipeline import Pipeline, past_pipeline, read_pipeline
from services.orchestrator.reading.sample_pages import BadCursor, SamplePage, read_page, sample_files
from services.orchestrator.runs.questions import answering, read_folder

SAMPLES, MOST_SAMPLES = 20, 200
"""Of a page, where nobody says how many, and at most."""
GROUPS, MOST_GROUPS = 50, 1_000
_MOMENT_S = 0.1
"""Whoever asks the same of a run's Redis within it is told what the first was told."""
_SPECS = 100
"""Of runs, that are remembered."""
_STATES = tuple(state.value for state in GroupState)


class Queries:
    """Reads only. Every method raises RunNotFound, FolderUnreadable, and NoAnswer where Redis is silent."""

    def __init__(self, service: RunService) -> None:
        self._service = service
        self._specs: Remembered[RunSpec] = Remembered(
            lambda folder: load_spec(RunFolder(folder).spec), (RunFolder(Path()).spec.name,), _SPECS
        )
        self._pipelines: Briefly[Pipeline] = Briefly(_MOMENT_S)
        self._records: Briefly[Sequence[GroupRecord]] = Briefly(_MOMENT_S)

    async def metrics(
        self, run_id: str, since_step: int, until_step: int | None, names: Sequence[str], points: int
    ) -> Series:
        """Curves of the steps after `since_step`, up to `until_step`, thinned to `points`. Raises BadField, e.g. for a
        name that there is not."""
        _check("points", points, MOST_POINTS)
        for name in names:
            if name not in BY_NAME:
                near = " or ".join(get_close_matches(name, BY_NAME))
                advice = f"Did you mean {near}?" if near else "Without names all are answered that the run has"
                raise BadField("names", f"is no metric. {advice}", name)
        folder = await self._service.folder(run_id)
        return await read_folder(lambda: read_series(folder, since_step, names, points, until_step=until_step))

    async def spec(self, run_id: str) -> str:
        """As YAML, with every default written out and no password in a URL."""
        folder = await self._service.folder(run_id)
        return await read_folder(lambda: show_yaml(self._specs.get(str(folder))))

    async def evaluations(self, run_id: str) -> list[dict[str, Any]]:
        """Lines of evaluations.jsonl, oldest first."""
        folder = await self._service.folder(run_id)
        return await read_folder(lambda: read_evaluations(folder))

    async def samples(self, run_id: str, set_name: str, wanted: SampleFilter, *, limit: int, cursor: str) -> SamplePage:
        """Of training or of an evaluation set, the newest first. Raises BadField."""
        _check("limit", limit, MOST_SAMPLES)
        if "/" in set_name or set_name in (".", "..") or "\0" in set_name:
            raise BadField("set", "is no evaluation set", set_name)
        folder = await self._service.folder(run_id)
        try:
            return await read_folder(lambda: read_page(sample_files(folder, set_name), wanted, limit, cursor))
        except BadCursor as error:
            raise BadField("cursor", str(error), cursor) from error

    async def groups(self, run_id: str, states: Collection[str], limit: int) -> list[GroupLine]:
        """The newest first, of those that still have a record. Raises BadField, e.g. for a state that
        there is not."""
        _check("limit", limit, MOST_GROUPS)
        for state in states:
            if state not in _STATES:
                raise BadField("state", f"is none of {', '.join(_STATES)}", state)
        async with self._service.questions(run_id) as questions:
            if (bus := questions.bus) is not None:

                async def read(bus: QuestionBus = bus) -> Sequence[GroupRecord]:
                    async with answering():
                        return await group_lists.read_records(bus, states)

                records = await self._records.get((run_id, frozenset(states)), read)
                return group_lists.newest(records, states, limit)
        folder = await self._service.folder(run_id)

        def archived() -> list[GroupLine]:
            found: list[GroupRecord] = list(read_archived_records(folder))
            return group_lists.newest(found, states, limit)

        return await read_folder(archived)

    async def pipeline(self, run_id: str) -> Pipeline:
        """What stands where now, or did a moment ago."""
        return await self._pipelines.get(run_id, lambda: self._pipeline(run_id))

    async def _pipeline(self, run_id: str) -> Pipeline:
        folder = await self._service.folder(run_id)
        rows = await read_folder(lambda: newest_rows(folder, HISTORY))
        async with self._service.questions(run_id) as questions:
            if (bus := questions.bus) is not None:
                spec = await read_folder(lambda: self._specs.get(str(folder)))
                async with answering():
                    return await read_pipeline(bus, spec, rows)
        return past_pipeline((await self._service.get(run_id)).ledger, rows)


def _check(field: str, number: int, most: int) -> None:
    if not 1 <= number <= most:
        raise BadField(field, f"1 to {most} may be", number)
