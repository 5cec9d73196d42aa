"""A run of the platform, by the `dapo` command, and what it leaves behind. Linux: peak memory is read from /proc."""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from dapo.host.files import tail, write_json
from dapo.host.processes import child_environment, python_command
from dapo.records.folder import RunFolder
from dapo.records.json_lines import read_json_lines
from dapo.spec import RunSpec, dump_yaml, parse_spec

_MEMORY_FILE = "learner_memory.json"
_POLL_S = 0.5
ENVIRONMENT = {"OMP_NUM_THREADS": "1"}


class RunError(RuntimeError):
    """A run failed, or its folder holds another one."""


class TrainingJob(NamedTuple):
    task: str
    key: str
    """The variant's."""
    seed: int
    spec: RunSpec
    folder: Path
    """The run's, which must not exist yet or hold this very run."""


class FinishedRun(NamedTuple):
    rows: list[dict[str, Any]]
    """Of metrics.jsonl."""
    peak_rss_bytes: int
    """Of the learner process up to its last step, without the checkpoint that is written after it."""


def load_finished(job: TrainingJob) -> FinishedRun | None:
    """None where the run is yet to be made, or did not end well. Raises RunError where another spec was run here."""
    folder = RunFolder(job.folder)
    summary, memory = folder.summary, job.folder / _MEMORY_FILE
    if not (summary.exists() and memory.exists()) or json.loads(summary.read_text())["state"] != "succeeded":
        return None
    if _settings(parse_spec(folder.spec.read_text(encoding="utf-8"))) != _settings(job.spec):
        raise RunError(f"{job.folder} holds a run of other settings (--steps?): give another --folder, or move it away")
    return FinishedRun(read_json_lines(folder.metrics), json.loads(memory.read_text())["peak_rss_bytes"])


def _settings(spec: RunSpec) -> dict[str, Any]:
    """All but where the inputs lie, since a folder may be moved."""
    return spec.model_dump(exclude={"model": {"path"}, "data": {"path"}})


def run(job: TrainingJob, on_step: Callable[[int], None]) -> FinishedRun:
    """Train, telling `on_step` how many steps are done. Raises RunError with the end of the log where the run fails."""
    shutil.rmtree(job.folder, ignore_errors=True)
    job.folder.parent.mkdir(parents=True, exist_ok=True)
    spec_path, log_path = job.folder.with_suffix(".yaml"), job.folder.with_suffix(".log")
    spec_path.write_text(dump_yaml(job.spec), encoding="utf-8")
    command = python_command("dapo.cli.main", "train", str(spec_path), "--run-dir", str(job.folder))
    with log_path.open("w") as log:
        # A session of its own: Ctrl-C reaches this program alone, which then stops the run.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, env=child_environment(ENVIRONMENT), start_new_session=True
        )
        try:
            peak_bytes = _follow(process, job, on_step)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
    if process.returncode:
        raise RunError(f"{job.folder} failed:\n{tail(log_path)}")
    write_json(job.folder / _MEMORY_FILE, {"peak_rss_bytes": peak_bytes})
    finished = load_finished(job)
    assert finished is not None
    return finished


def _follow(process: subprocess.Popen[bytes], job: TrainingJob, on_step: Callable[[int], None]) -> int:
    """Until the process ends; returns the learner's peak memory in bytes."""
    metrics = RunFolder(job.folder).metrics
    peak_bytes = 0
    while process.poll() is None:
        time.sleep(_POLL_S)
        steps = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        if steps < job.spec.training.steps:
            peak_bytes = max(peak_bytes, learner_peak_bytes(process.pid))
        on_step(steps)
    return peak_bytes


def learner_peak_bytes(pid: int) -> int:
    """The largest high-water mark of resident memory among the learner processes below `pid`; 0 without one."""
    try:
        children = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    return max((_high_water_bytes(child.pid) for child in children if _is_learner(child)), default=0)


def _is_learner(process: psutil.Process) -> bool:
    try:
        return "services.learner" in process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _high_water_bytes(pid: int) -> int:
    """VmHWM: the kernel keeps it, so a peak between two looks is not missed."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
