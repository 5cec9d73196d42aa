"""A run's folder: spec.yaml, provenance.json, metrics.jsonl, evaluations.jsonl, samples, summary.json, curves.png."""

import asyncio
import json
import logging
import math
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from dapo.bus.parts.decisions import Frontier
from dapo.data import Dataset
from dapo.host.files import append_line, write_json, write_text
from dapo.host.storage import in_words
from dapo.records.curves import plot_run
from dapo.records.folder import RunFolder
from dapo.records.group_archive import rewind_group_archive
from dapo.records.identity import FolderLock, RunDirError, RunIdentity, read_identity, write_identity
from dapo.records.json_lines import keep_json_lines, read_json_lines
from dapo.records.samples import Sample
from dapo.spec.load import dump_yaml
from dapo.spec.run import RunSpec
from dapo.telemetry.metrics import METRICS
from services.orchestrator.records.provenance import provenance
from services.orchestrator.records.remarks import UNSAID, Remarks, write_remarks
from services.orchestrator.records.samples import SampleArchive, Secure

log = logging.getLogger(__name__)

Result = TypeVar("Result")

_SUMMARY_STEPS = 5


def _finite(value: Any) -> Any:
    """JSON has no NaN: a number that is not finite is written as null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def mean_of(rows: Sequence[Mapping[str, Any]], name: str) -> float | None:
    """Mean of a metric over the rows that have it."""
    values = [row[name] for row in rows if isinstance(row.get(name), int | float)]
    return math.fsum(values) / len(values) if values else None


class Recorder:
    """Writes the run's folder: the spec when it is made, a line a step and an evaluation, the summary at the end.

    Lines are whole or not there; files that are replaced are replaced in one step.

    What is awaited awaits `secure` before each file that it writes; before any other write whoever writes does. Nothing
    of an earlier start is changed before `begin`.
    Restart: `reopen` goes on with the files of the folder, from which `rows` and `evaluations` are read. While it is
    open no other process of this machine can open it but those that it is shared with (FolderLock); the kernel sees to
    it when this one dies.
    """

    def __init__(self, run_dir: Path, spec: RunSpec, identity: RunIdentity) -> None:
        """Of a run whose folder is there: see `create` and `reopen`."""
        self.run_dir = run_dir
        self.identity = self._kept = identity
        self._folder = RunFolder(run_dir)
        self._spec = spec
        self.samples = SampleArchive(run_dir, spec.metrics.sample_groups_per_step)
        self.rows: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.elapsed_before_s = 0.0
        """Until the last step of an earlier start."""
        self.progress_at = time.time()
        """Unix time of the newest step that was recorded here, or prompt that was evaluated; before, of the start."""
        self._lock: FolderLock | None = None
        self.secure: Secure = self.samples.secure

    def guard(self, secure: Secure) -> None:
        """Of a run that others may lead: raises Fenced where they do."""
        self.secure = self.samples.secure = secure

    def close(self) -> None:
        """Others may go on with the folder."""
        if self._lock is not None:
            self._lock.release()

    @classmethod
    def create(
        cls,
        run_dir: Path,
        spec: RunSpec,
        identity: RunIdentity,
        *,
        remarks: Remarks = UNSAID,
        shared: bool = False,
    ) -> Self:
        """`shared` as in FolderLock. Raises RunDirError when the folder already holds a run, OSError when it cannot be
        written; a folder that was not there before is not then, either."""
        recorder, new = cls(run_dir, spec, identity), not run_dir.exists()
        run_dir.mkdir(parents=True, exist_ok=True)
        if RunFolder(run_dir).spec.exists():
            raise RunDirError(
                f"{run_dir} already holds a run: go on with it (dapo train --resume), give another --run-dir, or move "
                "it away"
            )
        recorder._lock = FolderLock(run_dir, shared=shared)
        try:
            write_identity(run_dir, identity)
            if remarks != UNSAID:
                write_remarks(run_dir, remarks)
            write_text(RunFolder(run_dir).spec, dump_yaml(spec))
            RunFolder(run_dir).metrics.touch()
        except OSError:
            recorder.close()
            if new:
                shutil.rmtree(run_dir, ignore_errors=True)
            raise
        return recorder

    @classmethod
    def reopen(cls, run_dir: Path, spec: RunSpec, *, shared: bool = False) -> Self:
        """`shared` as in FolderLock. Raises RunDirError when the folder holds no run or what it holds cannot be used,
        OSError."""
        folder = RunFolder(run_dir)
        recorder = cls(run_dir, spec, read_identity(run_dir))
        recorder._lock = FolderLock(run_dir, shared=shared)
        try:
            recorder.rows = read_json_lines(folder.metrics) if folder.metrics.exists() else []
        except (ValueError, OSError) as error:
            recorder.close()
            raise RunDirError(in_words(error, run_dir)) from error
        return recorder

    async def begin(self) -> None:
        """Go on with what is there: lines that were cut off go, and so does the end. Raises RunDirError, OSError."""
        folder = self._folder
        try:
            self.rows = await self._securely(keep_json_lines, folder.metrics)
            self.evaluations = await self._securely(keep_json_lines, folder.evaluations)
            await self._securely(self.samples.reopen)
        except ValueError as error:
            raise RunDirError(in_words(error, self.run_dir)) from error
        await self._securely(folder.metrics.touch)
        await self._securely(folder.summary.unlink, True)
        self.elapsed_before_s = self.rows[-1]["time_s"] if self.rows else 0.0

    async def begin_history(self) -> None:
        """The Redis that the run goes on with has its latest word, and no other. Raises RunDirError where somebody goes
        on with another one, OSError."""
        if self._lock is not None:
            self._lock.make_exclusive()
        await self.keep_identity(self.identity._replace(history=secrets.token_hex(8)))

    def count(self, *, on_gpus: bool) -> None:
        """As in RunIdentity; kept with the identity that is kept next, by whoever leads the run then."""
        self.identity = self.identity._replace(on_gpus=on_gpus)

    async def keep_identity(self, identity: RunIdentity) -> None:
        """Raises OSError."""
        if identity != self._kept:
            await self._securely(write_identity, self.run_dir, identity)
            self.identity = self._kept = identity

    async def keep_spec(self, spec: RunSpec) -> None:
        """The run goes on with it. Raises OSError."""
        await self._securely(write_text, self._folder.spec, dump_yaml(spec))
        await self.keep_next_spec(None)
        self._spec = spec

    async def keep_next_spec(self, spec: RunSpec | None) -> None:
        """The run is to go on with it, once there is room and once it is known to fit; None: with what it has. Raises
        OSError."""
        if spec is not None:
            await self._securely(write_text, self._folder.next_spec, dump_yaml(spec))
        elif self._folder.next_spec.exists():
            await self._securely(self._folder.next_spec.unlink)

    async def rewind(self, steps: int, frontier: Frontier | None) -> None:
        """Forget what came after so many steps, at which the data had come to `frontier` (None: its beginning), because
        it comes again. Raises OSError."""
        folder = self._folder
        # Samples carry the version at which their group was issued; those of version `steps` are of the next step.
        await self._securely(self.samples.rewind, steps)
        await self._securely(rewind_group_archive, self.run_dir, frontier)

        def is_kept(row: dict[str, Any]) -> bool:
            return bool(row["step"] <= steps)

        self.evaluations = await self._securely(keep_json_lines, folder.evaluations, is_kept)
        # Last: as long as it has more, a start that was cut short here rewinds again.
        self.rows = await self._securely(keep_json_lines, folder.metrics, is_kept)

    async def write_provenance(self, spec: RunSpec, dataset: Dataset) -> None:
        names = {"run_id": self.identity.run_id, "started_at": self.identity.created_at}
        value = await asyncio.to_thread(provenance, spec, dataset, **names)
        await self._securely(write_json, self._folder.provenance, value)

    async def _securely(self, write: Callable[..., Result], *args: Any) -> Result:
        """Beside other work."""
        await self.secure()
        return await asyncio.to_thread(write, *args)

    def record_step(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Append one step and return it as written: every declared metric is there, null where it was not measured."""
        row = {metric.name: None for metric in METRICS} | {name: _finite(value) for name, value in metrics.items()}
        self.rows.append(row)
        append_line(self._folder.metrics, json.dumps(row).encode() + b"\n")
        self.note_progress()
        return row

    def note_progress(self) -> None:
        self.progress_at = time.time()

    async def keep_evaluation(self, measures: Mapping[str, Any], samples: Sequence[Sample]) -> None:
        """As `record_evaluation`, beside other work."""
        await self._securely(self.record_evaluation, measures, samples)

    def record_evaluation(self, measures: Mapping[str, Any], samples: Sequence[Sample]) -> None:
        """Append one set's measures to evaluations.jsonl; its samples go to a file of their own."""
        try:
            self.samples.write_evaluation(measures["set"], measures["step"], samples)
        except OSError as error:  # The measures are worth more than the texts.
            log.error("the samples of the evaluation of step %s cannot be kept: %s", measures["step"], error)
        self.evaluations.append(dict(measures))
        append_line(self._folder.evaluations, json.dumps(measures).encode() + b"\n")

    def summary(
        self,
        *,
        state: str,
        message: str,
        ledger: Mapping[str, int],
        issued: int,
        restarts: int,
        elapsed_s: float,
    ) -> dict[str, Any]:
        """The object of summary.json.

        Accuracy and reward at start and end are means over the first and the last `averaged_steps` steps: five, or half
        of a shorter run's, so that no step is in both; one step is both.
        """
        averaged = max(1, min(_SUMMARY_STEPS, len(self.rows) // 2))
        first, last = self.rows[:averaged], self.rows[-averaged:]
        return {
            "run_id": self.identity.run_id,
            "state": state,
            "message": message,
            "steps": len(self.rows),
            "steps_total": self._spec.training.steps,
            "elapsed_s": round(elapsed_s, 3),
            "averaged_steps": averaged,
            "accuracy_start": mean_of(first, "accuracy_mean"),
            "accuracy_end": mean_of(last, "accuracy_mean"),
            "reward_start": mean_of(first, "reward_mean"),
            "reward_end": mean_of(last, "reward_mean"),
            "evaluations": self._first_and_last(),
            "step_s_mean": mean_of(self.rows, "step_s"),
            "generated_tokens": self.rows[-1].get("generated_tokens", 0) if self.rows else 0,
            "issued_groups": issued,
            "rested_prompts": self.rows[-1].get("rested_prompts", 0) if self.rows else 0,
            "restarts": restarts,
            "ledger": dict(ledger),
        }

    def _first_and_last(self) -> dict[str, list[dict[str, Any]]]:
        """By set, the first evaluation and the last; one where there is no other."""
        by_set: dict[str, list[dict[str, Any]]] = {}
        for row in self.evaluations:
            by_set[row["set"]] = [*by_set.get(row["set"], [])[:1], row]
        return by_set

    def write_summary(self, value: Mapping[str, Any]) -> None:
        write_json(self._folder.summary, value)

    def draw(self) -> Path | None:
        """curves.png, or None when no step was finished."""
        return plot_run(self.run_dir) if self.rows else None
