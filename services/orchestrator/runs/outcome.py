"""How a run ended, and how that is put into words."""

from pathlib import Path
from typing import Literal, NamedTuple

from dapo.host.storage import in_words, probe
from services.orchestrator.control.controller import Controller


class RunFailed(RuntimeError):
    """A run cannot go on; the message says why and shows the end of a log where one tells more."""


class RunOutcome(NamedTuple):
    state: Literal["succeeded", "failed", "stopped"]
    message: str = ""
    """Why it failed, was stopped, or ended before its last step; empty otherwise."""

    def but(self, trouble: str) -> "RunOutcome":
        """Failed, whatever it was before: something of the end went wrong, too."""
        return RunOutcome("failed", f"{self.message}\n{trouble}".strip())


STOPPED = RunOutcome("stopped", "stopped on request")
INTERRUPTED = RunOutcome("stopped", "the run service was shut down")
"""A service that starts again takes such a run up."""


def at_its_end(controller: Controller | None) -> RunOutcome:
    """Of a run whose last checkpoint covers all that was trained."""
    ending = controller.ending if controller is not None else None
    return RunOutcome("succeeded") if ending is None else RunOutcome(ending.state, ending.message)


def disk_first(words: str, run_dir: Path) -> str:
    """Why a run has failed: where its disk takes nothing more, that comes first."""
    refused = probe(run_dir)
    if refused is None or in_words(refused).partition(":")[0] in words.partition("\n")[0]:
        return words
    return f"{in_words(refused)}\n{words.partition(chr(10))[0]}"
