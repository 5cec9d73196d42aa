"""How a run stands, how it ended, and how that is put into words."""

import asyncio
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dapo.bus import BusError
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import SHUT_DOWN
from dapo.data import DatasetError
from dapo.host.remembered import Briefly
from dapo.host.storage import in_words, probe
from dapo.records.checkpoints import CheckpointError
from dapo.records.folder import RunFolder
from dapo.records.identity import RunDirError
from dapo.spec.problem import SpecError
from dapo.spec.run import RunSpec
from dapo.v1 import run_pb2 as pb
from services.orchestrator.control.alerts import ControllerError
from services.orchestrator.control.controller import Controller
from services.orchestrator.launch.launcher import LaunchError
from services.orchestrator.records.recorder import Recorder

log = logging.getLogger(__name__)

_REDIS_S = 5.0
"""How long one answer of a Redis that may be gone is waited for."""
_SUMMARY = frozenset({"state", "message", "steps", "steps_total", "ledger"})
_MOMENT_S = 0.1
"""Whoever asks for the ledger within it is told what the first was told."""


@dataclass
class Standing:
    """What is said of a run that goes on, or went on in this process."""

    state: str = "starting"
    message: str = ""
    ledger: dict[str, int] = field(default_factory=dict)
    issued: int = 0
    """Groups."""
    running_at: float | None = None
    """Unix time since when it runs under this service; None before."""
    _asked: Briefly[None] = field(default_factory=lambda: Briefly(_MOMENT_S))

    def change(self, state: str, message: str) -> None:
        self.state, self.message = state, message
        if state == "running":
            self.running_at = time.time()

    def view(self, recorder: Recorder, spec: RunSpec) -> pb.Run:
        return pb.Run(
            id=recorder.identity.run_id,
            state=f"RUN_STATE_{self.state.upper()}",
            run_dir=str(recorder.run_dir),
            message=self.message,
            step=len(recorder.rows),
            steps_total=spec.training.steps,
            created_at=recorder.identity.created_at,
            ledger=self.ledger,
        )

    async def refresh(self, bus: OrchestratorBus | None) -> None:
        """As `read_ledger`, once for all who ask within a moment."""
        await self._asked.get(None, lambda: self.read_ledger(bus))

    async def read_ledger(self, bus: OrchestratorBus | None) -> None:
        """Of this moment, where Redis answers."""
        if bus is None:
            return
        try:
            async with asyncio.timeout(_REDIS_S):
                self.ledger = await bus.groups.ledger()
                self.issued = await bus.groups.issued_total()
        except (BusError, TimeoutError) as error:
            log.warning("the ledger cannot be read: %s", error)


class RunFailed(RuntimeError):
    """A run cannot go on; the message says why and shows the end of a log where one tells more."""


EXPECTED = (
    RunFailed,
    BusError,
    ControllerError,
    DatasetError,
    LaunchError,
    SpecError,
    CheckpointError,
    RunDirError,
    OSError,
)
"""What ends a run in words; anything else is a fault of the service."""


class RunOutcome(NamedTuple):
    state: Literal["succeeded", "failed", "stopped", "cancelled"]
    message: str = ""
    """Why it failed, was stopped, or ended before its last step; empty otherwise."""

    def but(self, trouble: str) -> "RunOutcome":
        """Failed, whatever it was before: something of the end went wrong, too."""
        return RunOutcome("failed", f"{self.message}\n{trouble}".strip())


STOPPED = RunOutcome("stopped", "stopped on request")
CANCELLED = RunOutcome("cancelled", "cancelled on request")
INTERRUPTED = RunOutcome("stopped", SHUT_DOWN)
"""A service that starts again takes such a run up."""


def at_its_end(controller: Controller | None) -> RunOutcome:
    """Of a run whose last checkpoint covers all that was trained."""
    ending = controller.ending if controller is not None else None
    return RunOutcome("succeeded") if ending is None else RunOutcome(ending.state, ending.message)


def failed_of(error: BaseException, run_dir: Path, words: str | None) -> RunOutcome:
    """`words`: what is known of an error that is EXPECTED, instead of its own."""
    if isinstance(error, EXPECTED):
        return RunOutcome("failed", disk_first(words or in_words(error, run_dir), run_dir))
    log.error("the run in %s failed", run_dir, exc_info=error)
    return RunOutcome("failed", f"internal error: {error!r} (the service's log has the traceback)")


def disk_first(words: str, run_dir: Path) -> str:
    """Why a run has failed: where its disk takes nothing more, that comes first."""
    refused = probe(run_dir)
    if refused is None or in_words(refused).partition(":")[0] in words.partition("\n")[0]:
        return words
    return f"{in_words(refused)}\n{words.partition(chr(10))[0]}"


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Of a run's end; None where there is none that can be read, as of a run that had no end."""
    try:
        found = json.loads(RunFolder(folder).summary.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and found.keys() >= _SUMMARY else None


def has_end(folder: Path) -> bool:
    """Whether a run has an end of its own: not where its service was shut down, or had no time to write an end."""
    summary = read_summary(folder)
    return summary is not None and (summary["state"], summary["message"]) != INTERRUPTED


def is_done(folder: Path) -> bool:
    """Whether no run in this folder goes on, or will by itself: it has an end, or there is none."""
    return has_end(folder) or not RunFolder(folder).spec.exists()


def has_succeeded(folder: Path) -> bool:
    summary = read_summary(folder)
    return summary is not None and summary["state"] == "succeeded"
