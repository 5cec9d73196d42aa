"""How a run ended, and how that is put into words."""

import errno
from typing import Literal, NamedTuple

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})


class RunFailed(RuntimeError):
    """A run cannot go on; the message says why and shows the end of a log where one tells more."""


class RunOutcome(NamedTuple):
    state: Literal["succeeded", "failed", "stopped"]
    message: str = ""
    """Why it failed or was stopped; empty otherwise."""

    def but(self, trouble: str) -> "RunOutcome":
        """Failed, whatever it was before: something of the end went wrong, too."""
        return RunOutcome("failed", f"{self.message}\n{trouble}".strip())


def in_words(error: BaseException) -> str:
    """The error's message; a full disk is called one."""
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return f"the disk is full or its quota used up: free space for the run folder ({error})"
    return str(error)
