"""A run's folder: spec.yaml, provenance.json, metrics.jsonl, evaluations.jsonl, samples, summary.json, curves.png."""

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from dapo.host.files import append_line, write_json, write_text
from dapo.host.storage import in_words
from dapo.records.curves import plot_run
from dapo.records.folder import RunFolder
from dapo.records.identity import FolderLock, RunDirError, RunIdentity, read_identity, write_identity
from dapo.records.json_lines import keep_json_lines
from dapo.records.samples import Sample
from dapo.spec.load import dump_yaml
from dapo.spec.run import RunSpec
from dapo.telemetry.metrics import METRICS
from services.orchestrator.records.samples import SampleArchive

log = logging.getLogger(__name__)

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

    Restart: `reopen` goes on with the files of the folder, from which `rows` and `evaluations` are read. While it is
    open no other process of this machine can open it; the kernel sees to it when this one dies.
    """

    def __init__(self, run_dir: Path, spec: RunSpec, identity: RunIdentity) -> None:
        """Of a run whose folder is there: see `create` and `reopen`."""
        self.run_dir = run_dir
        self.identity = identity
        self._folder = RunFolder(run_dir)
        self._spec = spec
        self.samples = SampleArchive(run_dir, spec.metrics.sample_groups_per_step)
        self.rows: list[dict[str, Any]] = []
        self.evaluations: list[dict[str, Any]] = []
        self.elapsed_before_s = 0.0
        """Until the last step of an earlier start."""
        self._lock: FolderLock | None = None

    def close(self) -> None:
        """Others may go on with the folder."""
        if self._lock is not None:
            self._lock.release()

    @classmethod
    def create(cls, run_dir: Path, spec: RunSpec, identity: RunIdentity) -> Self:
        """Raises RunDirError when the folder already holds a run, OSError when it cannot be written."""
        recorder = cls(run_dir, spec, identity)
        run_dir.mkdir(parents=True, exist_ok=True)
        if RunFolder(run_dir).spec.exists():
            raise RunDirError(
                f"{run_dir} already holds a run: go on with it (dapo train --resume), give another --run-dir, or move "
                "it away"
            )
        write_identity(run_dir, identity)
        recorder._lock = FolderLock(run_dir)
        write_text(RunFolder(run_dir).spec, dump_yaml(spec))
        RunFolder(run_dir).metrics.touch()
        return recorder

    @classmethod
    def reopen(cls, run_dir: Path, spec: RunSpec) -> Self:
        """Raises RunDirError when the folder holds no run or what it holds cannot be used, OSError."""
        folder = RunFolder(run_dir)
        recorder = cls(run_dir, spec, read_identity(run_dir))
        recorder._lock = FolderLock(run_dir)
        try:
            recorder.rows = keep_json_lines(folder.metrics)
            recorder.evaluations = keep_json_lines(folder.evaluations)
            recorder.samples.reopen()
            folder.metrics.touch()
            folder.summary.unlink(missing_ok=True)
        except (ValueError, OSError) as error:
            recorder.close()
            raise RunDirError(in_words(error, run_dir)) from error
        recorder.elapsed_before_s = recorder.rows[-1]["time_s"] if recorder.rows else 0.0
        return recorder

    def keep_spec(self, spec: RunSpec) -> None:
        """The run goes on with it. Raises OSError."""
        self._spec = spec
        write_text(self._folder.spec, dump_yaml(spec))

    def rewind(self, steps: int) -> None:
        """Forget what came after so many steps, because it comes again. Raises OSError."""
        folder = self._folder
        self.rows = keep_json_lines(folder.metrics, lambda row: row["step"] <= steps)
        self.evaluations = keep_json_lines(folder.evaluations, lambda row: row["step"] <= steps)
        # Samples carry the version at which their group was issued; those of version `steps` are of the next step.
        self.samples.rewind(steps)

    def write_provenance(self, value: Mapping[str, Any]) -> None:
        write_json(self._folder.provenance, value)

    def record_step(self, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Append one step and return it as written: every declared metric is there, null where it was not measured."""
        row = {metric.name: None for metric in METRICS} | {name: _finite(value) for name, value in metrics.items()}
        self.rows.append(row)
        append_line(self._folder.metrics, json.dumps(row).encode() + b"\n")
        return row

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
