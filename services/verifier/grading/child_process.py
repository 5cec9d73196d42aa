"""A grading process as its parent sees it: start, jobs out, replies in, kill."""

import asyncio
import json
import logging
from collections import deque
from collections.abc import Sequence
from typing import Any

from dapo.environment import SERVICE_KEYS
from dapo.host.processes import child_environment, python_command
from services.verifier.grading.child_main import READY

log = logging.getLogger(__name__)

COMMAND = python_command("services.verifier.grading.child_main")
START_DEADLINE_S = 60.0
_GRACE_S = 0.05
"""After a deadline, time to read a reply that came while this process itself was not scheduled."""
_CHUNK_BYTES = 65536


class GradingHangs(Exception):
    """No reply within the deadline."""


class GradingEnded(Exception):
    """The process exited without a reply."""


class GradingProcess:
    """Replies come in the order of the jobs. After GradingHangs or GradingEnded only `end` may be called."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._stdin = process.stdin
        self._stdout = process.stdout
        self._lines: deque[bytes] = deque()
        self._rest = b""
        self.built: set[str] = set()
        """Names of the graders that were built in this process."""

    @classmethod
    async def start(cls, configuration: bytes) -> "GradingProcess | None":
        """None if it does not start within START_DEADLINE_S; its own error message is on stderr."""
        pipe = asyncio.subprocess.PIPE
        environment = child_environment(without=SERVICE_KEYS)
        child = await asyncio.create_subprocess_exec(*COMMAND, stdin=pipe, stdout=pipe, env=environment)
        process = cls(child)
        ready = False
        try:
            process._stdin.write(configuration + b"\n")
            ready = await process._read_line(START_DEADLINE_S) == READY.rstrip()
        except GradingHangs:
            log.error("a grading process was not ready within %.0f s", START_DEADLINE_S)
        except GradingEnded:
            log.error("a grading process ended while it started")
        finally:
            if not ready:
                await process.end()
        return process if ready else None

    def send(self, messages: Sequence[Sequence[Any]]) -> None:
        # A broken pipe is noticed by `reply`, as the end of the file.
        self._stdin.write(json.dumps(messages).encode() + b"\n")

    async def reply(self, timeout_s: float) -> Any:
        """The reply to the oldest unanswered job. Raises GradingHangs after `timeout_s`, GradingEnded."""
        return json.loads(await self._read_line(timeout_s))

    async def _read_line(self, timeout_s: float) -> bytes:
        while not self._lines:
            data = await self._read(timeout_s)
            if not data:
                raise GradingEnded
            *lines, self._rest = (self._rest + data).split(b"\n")
            self._lines.extend(lines)
        return self._lines.popleft()

    async def _read(self, timeout_s: float) -> bytes:
        reading = asyncio.ensure_future(self._stdout.read(_CHUNK_BYTES))
        try:
            for patience_s in (timeout_s, _GRACE_S):
                await asyncio.wait([reading], timeout=patience_s)
                if reading.done():
                    return reading.result()
            raise GradingHangs
        finally:
            reading.cancel()

    async def end(self) -> None:
        """Kill the process and wait until it is gone, even if cancelled."""
        if self._process.returncode is None:
            self._process.kill()
        gone = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.shield(gone)
        except asyncio.CancelledError:
            await gone
            raise
