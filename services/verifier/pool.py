"""Grading and measuring in processes that the parent kills and starts anew.

Invariant: every request gets exactly one verdict, and a hanging or crashing grading costs no other request its own.
Measuring a text is a job of its own, so that a slow pattern of the user's costs no verdict either.
The parent owns the deadline: alarms inside the process do not stop one long call in C, and threads cannot be killed.
"""

import asyncio
import importlib
import json
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from dapo.algo.text_statistics import TextStatistics
from services.verifier.graders import GRADERS, Verdict, wrong
from services.verifier.sandbox import READY

log = logging.getLogger(__name__)
T = TypeVar("T")

_BATCH = 32
"""Jobs of one message: what saves round trips; those behind a hanging one go to another process."""
_START_DEADLINE_S = 60.0
START_ATTEMPTS = 3
_GRACE_S = 0.05
"""After a deadline, time to read what came while this process itself stood still."""
_CHUNK_BYTES = 65536


class GraderStartError(RuntimeError):
    """A grading process does not come up."""


class GradingRequest(NamedTuple):
    grader: str
    text: str
    gold: str


@dataclass(eq=False)
class _Job(Generic[T]):
    message: tuple[Any, ...]
    """As the process gets it."""
    read: Callable[[list[Any]], T]
    """The result, from the process's reply."""
    give_up: Callable[[str], T]
    """The result where there is no reply, from the reason."""
    result: "asyncio.Future[T]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    crashes: int = 0


class GradingPool:
    """`run` must be going on while `grade` is awaited; `modules` are imported first and may add to GRADERS.

    A process may use `memory_mib` MiB of address space. A crash is judged on the second one, alone in its process, so
    that a process killed from outside costs nobody a verdict; a hang is judged at once, after `timeout_s`.
    """

    def __init__(
        self, *, timeout_s: float, processes: int = 2, memory_mib: int = 1024, modules: Sequence[str] = ()
    ) -> None:
        self._timeout_s = timeout_s
        self._processes = processes
        self._command = [sys.executable, "-m", "services.verifier.sandbox", str(memory_mib), *modules]
        self._queue: asyncio.Queue[_Job[Any]] = asyncio.Queue()
        for module in modules:
            importlib.import_module(module)

    async def run(self) -> None:
        """Keep the grading processes until cancelled. Raises GraderStartError where one cannot be started."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._processes):
                group.create_task(self._keep_process())

    async def grade(self, requests: Sequence[GradingRequest]) -> list[Verdict]:
        """A verdict for each request, in order."""
        verdicts: list[Verdict | asyncio.Future[Verdict]] = []
        for request in requests:
            prepared = _prepare(request)
            if isinstance(prepared, Verdict):
                verdicts.append(prepared)
            else:
                verdicts.append(self._submit(_Job(("grade", *prepared), lambda reply: Verdict(*reply), wrong)))
        return [verdict if isinstance(verdict, Verdict) else await verdict for verdict in verdicts]

    async def measure(self, texts: Sequence[str], reflection_patterns: Sequence[str]) -> list[TextStatistics | None]:
        """Statistics of each text, in order; None where a text took too long or too much memory."""
        messages = [("measure", text, list(reflection_patterns)) for text in texts]
        results = [
            self._submit(_Job(message, lambda reply: TextStatistics(*reply), _unmeasured)) for message in messages
        ]
        return [await result for result in results]

    def _submit(self, job: _Job[T]) -> "asyncio.Future[T]":
        self._queue.put_nowait(job)
        return job.result

    async def _keep_process(self) -> None:
        while True:
            process = await self._start()
            try:
                healthy = True
                while healthy:
                    healthy = await self._grade_batch(process, await self._next_batch())
            finally:
                await _end(process)

    async def _start(self) -> asyncio.subprocess.Process:
        for _ in range(START_ATTEMPTS):
            process = await self._try_start()
            if process is not None:
                return process
        raise GraderStartError(f"`{' '.join(self._command)}` does not start: see its error above in this log")

    async def _try_start(self) -> asyncio.subprocess.Process | None:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(*self._command, stdin=pipe, stdout=pipe)
        assert process.stdout is not None
        ready = b""
        try:
            async with asyncio.timeout(_START_DEADLINE_S):
                ready = await process.stdout.readline()
        except TimeoutError:
            log.error("a grading process was not ready within %.0f s", _START_DEADLINE_S)
        finally:
            if ready != READY:
                await _end(process)
        return process if ready == READY else None

    async def _next_batch(self) -> list[_Job[Any]]:
        """Jobs that go into one message. One that crashed before goes alone."""
        batch = [await self._queue.get()]
        while batch[-1].crashes == 0 and len(batch) < _BATCH and not self._queue.empty():
            job = self._queue.get_nowait()
            if job.crashes:
                self._queue.put_nowait(job)
                break
            batch.append(job)
        return batch

    async def _grade_batch(self, process: asyncio.subprocess.Process, batch: list[_Job[Any]]) -> bool:
        """Whether the process lives on. Jobs behind the one that ended it are queued again."""
        assert process.stdin is not None
        assert process.stdout is not None
        # A pipe that is broken is found out by reading, as the end of file.
        process.stdin.write(json.dumps([job.message for job in batch]).encode() + b"\n")
        done, rest = 0, b""
        while done < len(batch):
            data = await self._read(process.stdout)
            if not data:
                break
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                _conclude(batch[done], batch[done].read(json.loads(line)))
                done += 1
        else:
            return True
        culprit, behind = batch[done], batch[done + 1 :]
        if data is None:
            _conclude(culprit, culprit.give_up("timeout"))
        elif culprit.crashes:
            _conclude(culprit, culprit.give_up("crash"))
        else:
            culprit.crashes += 1
            behind = [culprit, *behind]
        for job in behind:
            self._queue.put_nowait(job)
        return False

    async def _read(self, stdout: asyncio.StreamReader) -> bytes | None:
        """What the process wrote; empty when it has ended, None when a grading takes longer than it may."""
        reading = asyncio.ensure_future(stdout.read(_CHUNK_BYTES))
        try:
            for patience_s in (self._timeout_s, _GRACE_S):
                await asyncio.wait([reading], timeout=patience_s)
                if reading.done():
                    return reading.result()
            return None
        finally:
            reading.cancel()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill the process; returns, or is cancelled, only once it is gone."""
    if process.returncode is None:
        process.kill()
    gone = asyncio.ensure_future(process.wait())
    try:
        await asyncio.shield(gone)
    except asyncio.CancelledError:
        await gone
        raise


def _conclude(job: _Job[T], result: T) -> None:
    if not job.result.done():  # its caller may have been cancelled
        job.result.set_result(result)


def _unmeasured(reason: str) -> None:
    log.warning("a response was not measured (%s): look at metrics.reflection_patterns", reason)


def _prepare(request: GradingRequest) -> GradingRequest | Verdict:
    """The request as the process gets it, or the verdict where none needs grading."""
    grader = GRADERS.get(request.grader)
    if grader is None:
        return wrong("unknown_grader", request.grader)
    text = request.text[-grader.max_characters :] if grader.reads_tail else request.text
    if max(len(text), len(request.gold)) > grader.max_characters:
        return wrong("too_long")
    return request._replace(text=text)
