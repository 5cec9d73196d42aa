"""How a run ended, and how that is put into words."""

from typing import Literal, NamedTuple


class RunFailed(RuntimeError):
    """A run cannot go on; the message says why and shows the end of a log where one tells more."""


class RunOutcome(NamedTuple):
    state: Literal["succeeded", "failed", "stopped"]
    message: str = ""
    """Why it failed or was stopped; empty otherwise."""

    def but(self, trouble: str) -> "RunOutcome":
        """Failed, whatever it was before: something of the end went wrong, too."""
        return RunOutcome("failed", f"{self.message}\n{trouble}".strip())


STOPPED = RunOutcome("stopped", "stopped on request")
INTERRUPTED = RunOutcome("stopped", "the run service was shut down")
"""A service that starts again takes such a run up."""
