"""`python -m services.orchestrator.tracking.sinks.wandb_process`: one W&B run, for the sink that started this process.

Each line of standard input is a request, answered with a line on what was standard output: `{}`, or `{"error": …}`.
The library keeps one state for a whole process, and one that has lost its server holds up the end of the process.
"""

import json
import logging
import os
import signal
import sys
from typing import Any

import wandb

from dapo.host.processes import die_with_parent

_X = "step"
"""The axis of all curves: W&B's own counts records, in which evaluations come late, and may not go back."""
_CURE = "the server has not taken all; RUN_DIR/wandb has it: `wandb sync` ({})"


class NotTaken(RuntimeError):
    """The server lacks some of what the library has kept."""


class _Said(logging.Handler):
    """What the library prints for people: it has no other word for a server that refuses for good."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.refused = ""
        self.logger = logging.Logger("wandb prints")
        self.logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if "will not be synced" in (text := record.getMessage()):
            self.refused = text


class _Run:
    """The methods are the requests."""

    def __init__(self) -> None:
        self._said = _Said()

    def begin(self, settings: dict[str, Any], **options: Any) -> None:
        wandb.setup()
        wandb.termsetup(wandb.Settings(silent=True), self._said.logger)
        self._run = wandb.init(**options, settings=wandb.Settings(**settings))
        self._run.define_metric(_X)
        self._run.define_metric("*", step_metric=_X)

    def log(self, step: int, record: int, values: dict[str, float]) -> None:
        self._run.log({_X: step, **values}, step=record, commit=True)

    def alert(self, message: str) -> None:
        self._run.alert(title="dapo", text=message)

    def end(self, state: str, message: str) -> None:
        self._run.summary.update({"state": state, "message": message})
        try:
            self._run.finish(exit_code=int(state == "failed"))
        except TimeoutError as error:
            raise NotTaken(_CURE.format(error)) from error
        if self._said.refused:
            raise NotTaken(_CURE.format(self._said.refused))

    def close(self) -> None:
        """What is queued is written; nothing where `end` did it."""
        if wandb.run is not None:
            wandb.run.finish()


def main() -> None:
    die_with_parent(signal.SIGKILL)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    # What the library prints is no answer.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    run = _Run()
    for line in sys.stdin:
        method, arguments = json.loads(line)
        answer = {}
        try:
            getattr(run, method)(**arguments)
        except Exception as error:  # noqa: BLE001 - whatever the library raises is the answer
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    run.close()


if __name__ == "__main__":
    main()
