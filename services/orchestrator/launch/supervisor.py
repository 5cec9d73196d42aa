"""Watches a run's child processes. Restart policy `never`: the first exit that was not asked for ends the run."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

LOG_LINES = 30
_TAIL_BYTES = 64 * 1024


class Child(NamedTuple):
    role: str
    worker_id: str
    process: asyncio.subprocess.Process
    started: int
    """Start time as in dapo.host.processes.ProcessEntry; 0 when the process was gone before it could be read."""
    log: Path


class ChildFailure(NamedTuple):
    """`code` is the exit code, or minus the signal that ended the child."""

    worker_id: str
    code: int
    log: Path
    log_end: str

    @property
    def headline(self) -> str:
        how = f"exited with code {self.code}" if self.code >= 0 else f"was ended by signal {-self.code}"
        return f"{self.worker_id} {how}"

    def __str__(self) -> str:
        return f"{self.headline}\nend of {self.log}:\n{self.log_end}"


def tail(path: Path, lines: int = LOG_LINES) -> str:
    """The last lines of a log; empty when there is none."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    return "\n".join(text.splitlines()[-lines:])


class Supervisor:
    """Tells an expected exit (code 0 of a role given to `expect_end`) from any other."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = list(children)
        self._ending: frozenset[str] = frozenset()

    def expect_end(self, *roles: str) -> None:
        """From now on processes of these roles may exit with code 0."""
        self._ending |= frozenset(roles)

    def _expected(self, child: Child, code: int) -> bool:
        return child.role in self._ending and code == 0

    async def first_failure(self) -> ChildFailure:
        """Wait for the first exit that is not expected."""
        waits = {asyncio.create_task(child.process.wait()): child for child in self._children}
        try:
            while True:
                done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    child, code = waits.pop(task), task.result()
                    if not self._expected(child, code):
                        return ChildFailure(child.worker_id, code, child.log, tail(child.log))
                if not waits:
                    await asyncio.Event().wait()
        finally:
            for task in waits:
                task.cancel()

    async def wait_for_role(self, role: str) -> None:
        """Return once every process of `role` has ended."""
        await asyncio.gather(*(child.process.wait() for child in self._children if child.role == role))
