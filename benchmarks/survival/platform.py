"""One run under a service of its own, watched from its first step to its end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.survival.audit import Promise, audit
from benchmarks.survival.journal import Journal, JournalKeeper
from dapo.client import RunClient
from dapo.host.processes import child_environment, python_command
from dapo.records.folder import RunFolder

REPO = Path(__file__).resolve().parents[2]
SIMULATED, REAL = "tests.support.simulator.service", "services.orchestrator"
"""Modules of the run service."""
_POLL_S = 0.1
_READY_S = 60.0
_END_S = 60.0
Tick = Callable[[int, int], None]
"""Called ten times a second with the service's pid and the steps finished so far."""


class RunStalled(RuntimeError):
    """No step was finished for too long; says after which, and where the logs are."""


@dataclass
class FinishedRun:
    folder: Path
    """The run's own."""
    summary: dict[str, Any]
    rows: list[dict[str, Any]]
    events: list[dict[str, Any]]
    journal: Journal
    step_times: list[float]
    """When each step was seen to be finished, by time.monotonic."""

    @property
    def training_s(self) -> float:
        """From the first step's end to the last's."""
        return self.step_times[-1] - self.step_times[0] if self.step_times else 0.0

    def alerts(self, cause: str) -> list[str]:
        found = (event["data"] for event in self.events if event["kind"] == "alert")
        return [alert["message"] for alert in found if alert.get("kind") == cause]

    def violations(self, promise: Promise) -> list[str]:
        """The audit's, and what the run itself has to say."""
        found = audit(self.journal, self.summary["ledger"], self.summary["issued_groups"], self.rows, promise)
        if self.summary["state"] != "succeeded":
            found.insert(0, f"the run {self.summary['state']}: {self.summary['message']}")
        return found + self.alerts("replay_differs")


class Service:
    """The run service as a process, at `folder`. Ends with everything that it has started when it is left."""

    def __init__(self, folder: Path, module: str, environment: Mapping[str, str]) -> None:
        self.folder = folder
        policy = folder / "policy.yaml"
        policy.write_text("roots: [/]\npython_graders: ['*']\n")
        self._command = python_command(module, "--state-dir", str(folder), "--die-with-parent", "--policy", str(policy))
        names = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DAPO_API_TOKEN")}
        self._environment = {**names, "OMP_NUM_THREADS": "1", **environment}
        self.log = folder / "service.log"

    def __enter__(self) -> "Service":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(_END_S)
        finally:
            self.process.kill()

    def start(self) -> None:
        """Returns once it answers. Raises RuntimeError."""
        ready = self.folder / "ready.json"
        ready.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._command, "--ready-file", str(ready)],
                cwd=REPO,
                env=child_environment(self._environment, without=["REDIS_URL", "DAPO_API_TOKEN"]),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + _READY_S
        while not ready.exists():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the run service did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(_POLL_S)
        self.url = f"http://127.0.0.1:{json.loads(ready.read_text())['port']}"
        self.client = RunClient(self.url)


def make_toy(folder: Path) -> Path:
    """The base model and the data of examples/reverse.yaml."""
    if not (folder / "train.jsonl").exists():
        subprocess.run(
            python_command("dapo.cli.main", "model", "toy-reverse", str(folder)),
            cwd=REPO,
            check=True,
            stdout=sys.stderr,
        )
    return folder


def train(
    folder: Path,
    spec: Mapping[str, Any],
    tick: Tick,
    *,
    module: str = SIMULATED,
    environment: Mapping[str, str] | None = None,
    stall_s: float = 300.0,
) -> FinishedRun:
    """Train to the end; a run service that dies is started again.

    Raises RunStalled, with every process ended and all files kept in `folder`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with JournalKeeper(folder, folder / "journal") as keeper, Service(folder, module, environment or {}) as service:
        run = service.client.create(yaml.safe_dump(dict(spec)))
        files = RunFolder(Path(run["run_dir"]))
        times: list[float] = []
        progress = time.monotonic()
        while not files.summary.exists():
            time.sleep(_POLL_S)
            now = time.monotonic()
            steps = files.metrics.read_bytes().count(b"\n") if files.metrics.exists() else 0
            if steps > len(times):
                times += [now] * (steps - len(times))
                progress = now
            if now - progress > stall_s:
                raise RunStalled(
                    f"no step for {stall_s:g} s after step {steps}: look at {files.logs} and {service.log}"
                )
            tick(service.process.pid, steps)
            if service.process.poll() is not None:
                service.client.close()
                service.start()
    return FinishedRun(
        folder=files.path,
        summary=json.loads(files.summary.read_text()),
        rows=_lines(files.metrics),
        events=_lines(files.events),
        journal=keeper.read(run["id"]),
        step_times=times,
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
