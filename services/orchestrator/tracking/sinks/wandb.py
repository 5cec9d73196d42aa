"""Weights & Biases, in a process of its own that can be ended."""

import contextlib
import json
import os
import select
import signal
import subprocess
from collections.abc import Mapping
from typing import Any, ClassVar

from dapo.environment import SERVICE_KEYS
from dapo.host.files import append_line
from dapo.host.processes import child_environment, python_command
from dapo.records.folder import RunFolder
from dapo.records.json_lines import keep_json_lines
from dapo.spec.checks.tracking import WANDB_KEY
from dapo.spec.load import show_tree
from dapo.spec.tree.tracking import WandbSpec
from services.orchestrator.tracking.sink import Row, Told, TrackedRun, Trained
from services.orchestrator.tracking.values import evaluation_values, step_values

_MODULE = "services.orchestrator.tracking.sinks.wandb_process"
_BEGIN_S, _FINISH_S = 60.0, 25.0
_ANSWER_S = 120.0
"""More than the library's own deadlines."""
_ENDED_S = 5.0


class WandbFailed(RuntimeError):
    """What the library said, or that its process is gone."""


class WandbSink:
    """One W&B run under the id of ours. A start that goes on resumes it (offline: another folder of the same id).

    W&B's history only grows: a record under a number that it has is dropped there, so what is told twice comes once.
    Its library only queues a record. All are kept in RUN_DIR/tracking/wandb.jsonl until it says that none is left, and
    a start that finds some tells them again, as they were.
    """

    rewinds: ClassVar[bool] = False
    forgets: ClassVar[bool] = False

    def __init__(self, spec: WandbSpec) -> None:
        self._spec = spec
        self._begun = False
        self._process = subprocess.Popen(
            python_command(_MODULE),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # The library has logs of its own, in RUN_DIR/wandb.
            env=child_environment(without=set(SERVICE_KEYS) - {WANDB_KEY}),
            start_new_session=True,
        )

    def begin(self, run: TrackedRun, told: Told) -> None:
        settings = {
            "base_url": self._spec.base_url,
            "console": "off",
            "disable_code": True,
            "disable_git": True,
            "finish_timeout": _FINISH_S,
            "finish_timeout_raises": True,
            "init_timeout": _BEGIN_S,
            "silent": True,
            "x_disable_meta": True,
            "x_disable_stats": True,
        }
        self._ask(
            "begin",
            settings=settings,
            entity=self._spec.entity,
            project=self._spec.project,
            id=run.run_id,
            name=run.run_id,
            dir=str(run.run_dir),
            config=show_tree(run.spec),
            allow_val_change=True,
            mode=self._spec.mode,
            resume="allow" if self._spec.mode == "online" else None,
        )
        self._begun = True
        self._queued = RunFolder(run.run_dir).tracking / "wandb.jsonl"
        self._queued.parent.mkdir(exist_ok=True)
        # What was not noted comes again.
        for one in keep_json_lines(self._queued, lambda one: one["record"] < told.records):
            self._ask("log", **one)

    def step(self, row: Row, record: int, trained: Trained | None) -> None:
        self._log(row, record, step_values(row))

    def evaluation(self, row: Row, record: int) -> None:
        self._log(row, record, evaluation_values(row))

    def alert(self, message: str) -> None:
        self._ask("alert", message=message)

    def end(self, state: str, message: str) -> None:
        self._ask("end", state=state, message=message)
        self._queued.unlink(missing_ok=True)

    def close(self) -> None:
        """The library may write what it has queued, for _ENDED_S."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # of a request that was cut off
            self._process.stdin.close()
        if self._begun:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_ENDED_S)
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(_ENDED_S)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def _log(self, row: Row, record: int, values: Mapping[str, float]) -> None:
        one = {"step": row["step"], "record": record, "values": dict(values)}
        append_line(self._queued, json.dumps(one).encode() + b"\n")
        self._ask("log", **one)

    def _ask(self, method: str, **arguments: Any) -> None:
        """Raises WandbFailed, OSError where the process is gone."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None
        assert answers is not None
        requests.write(json.dumps([method, arguments]).encode() + b"\n")
        requests.flush()
        if not select.select([answers], [], [], _ANSWER_S)[0]:
            raise WandbFailed(f"its library has not answered within {_ANSWER_S:g} s")
        line = answers.readline()
        if not line:
            raise WandbFailed("the process of its library has ended")
        if "error" in (answer := json.loads(line)):
            raise WandbFailed(answer["error"])
