"""Grading and measuring in processes that the parent kills and starts anew.

Invariant: every request gets exactly one verdict, and a hanging or crashing grading costs no other request its own.
Measuring a text is a job of its own, so that a slow pattern of the user's costs no verdict either.
The parent owns the deadline: alarms inside the process do not stop one long call in C, and threads cannot be killed.
"""

import asyncio
import json
import logging
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from dapo.algo.text_statistics import TextStatistics
from dapo.spec.tree.graders import AnyGrader, CodeGrader
from services.verifier.graders import Verdict, read_text, wrong
from services.verifier.grading.jobs import Job, JobQueue
from services.verifier.grading.process import COMMAND, START_DEADLINE_S, GradingEnded, GradingHangs, GradingProcess

log = logging.getLogger(__name__)

START_ATTEMPTS = 3
_CODE_SLACK_S = 5.0
"""The sandbox of `code` ends programs at their own deadline; only where it fails to does the pool step in."""


class GraderStartError(RuntimeError):
    """A grading process does not come up, or a grader that the spec names cannot be made ready."""


class GradingRequest(NamedTuple):
    grader: str
    text: str
    gold: str
    prompt: str = ""
    """What the response answers, for graders outside the pool."""


class GradingPool:
    """`run` must be going on while `grade` is awaited; `graders` are the local ones by name.

    A process may use `memory_mib` MiB of address space. A crash is judged on the second one, alone in its process, so
    that a process killed from outside costs nobody a verdict; a hang is judged at once, after `timeout_s` (`code` has a
    deadline of its own).

    A grader is built once in each process, outside any job's deadline: those in `required` (name → the spec's field)
    before the first job, others when they are first asked for. One that cannot be built ends the pool with
    GraderStartError where it is required; elsewhere its verdicts are `unavailable`.
    """

    def __init__(
        self,
        graders: Mapping[str, AnyGrader],
        *,
        timeout_s: float,
        required: Mapping[str, str] | None = None,
        processes: int = 2,
        memory_mib: int = 1024,
    ) -> None:
        self._graders = graders
        self._timeout_s = timeout_s
        self._required = required or {}
        self._processes = processes
        options = {name: grader.model_dump() for name, grader in graders.items()}
        self._configuration = json.dumps({"memory_mib": memory_mib, "graders": options}).encode()
        self._queue = JobQueue()
        self._unavailable: dict[str, str] = {}
        self._fatal_builds: Counter[str] = Counter()

    async def run(self) -> None:
        """Keep the grading processes until cancelled. Raises GraderStartError."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._processes):
                group.create_task(self._keep_process())

    async def grade(self, requests: Sequence[GradingRequest]) -> list[Verdict]:
        """A verdict for each request, in order."""
        verdicts: list[Verdict | asyncio.Future[Verdict]] = []
        for request in requests:
            options = self._graders[request.grader]
            text = read_text(options, request.text)
            if text is None:
                verdicts.append(wrong("too_long"))
            elif len(request.gold) > options.MAX_GOLD:
                verdicts.append(wrong("bad_gold", f"{len(request.gold)} characters, {options.MAX_GOLD} may be"))
            else:
                verdicts.append(self._queue.submit(self._grading(options, request, text)))
        return [verdict if isinstance(verdict, Verdict) else await verdict for verdict in verdicts]

    async def measure(self, texts: Sequence[str], reflection_patterns: Sequence[str]) -> list[TextStatistics | None]:
        """Statistics of each text, in order; None where a text took too long or too much memory."""
        patterns = list(reflection_patterns)
        results = [
            self._queue.submit(
                Job(("measure", text, patterns), lambda reply: TextStatistics(*reply), _unmeasured, self._timeout_s)
            )
            for text in texts
        ]
        return [await result for result in results]

    def _grading(self, options: AnyGrader, request: GradingRequest, text: str) -> Job[Verdict]:
        message = ("grade", request.grader, text, request.gold)
        job = Job(message, lambda reply: Verdict(*reply), wrong, self._timeout_s, request.grader)
        if isinstance(options, CodeGrader):
            job.timeout_s, job.alone = options.timeout_s + _CODE_SLACK_S, True
        return job

    async def _keep_process(self) -> None:
        while True:
            process = await self._start()
            try:
                await self._serve(process)
            except GradingHangs:
                log.warning("a grading process was killed, as a job took longer than it may")
            except GradingEnded:
                log.warning("a grading process ended during a job")
            finally:
                await process.end()

    async def _start(self) -> GradingProcess:
        for _ in range(START_ATTEMPTS):
            process = await GradingProcess.start(self._configuration)
            if process is not None:
                return process
        raise GraderStartError(f"`{' '.join(COMMAND)}` does not start: see its error above in this log")

    async def _serve(self, process: GradingProcess) -> None:
        """Until the process has to go: raises GradingHangs or GradingEnded. Raises GraderStartError."""
        for name in self._required:
            await self._build(process, name)
        while True:
            batch = await self._queue.next_batch()
            try:
                for name in {job.grader for job in batch if job.grader} - process.built:
                    await self._build(process, name)
            except (GradingHangs, GradingEnded):
                self._queue.again(batch)
                raise
            await self._work(process, batch)

    async def _build(self, process: GradingProcess, name: str) -> None:
        if name in self._unavailable:
            return
        process.send([("build", name)])
        try:
            error = await process.reply(START_DEADLINE_S)
        except GradingHangs:
            self._give_up_grader(name, f"{name!r} was not ready within {START_DEADLINE_S:.0f} s")
            raise
        except GradingEnded:
            self._fatal_builds[name] += 1
            if self._fatal_builds[name] == START_ATTEMPTS:
                self._give_up_grader(name, f"{name!r} ends the process that makes it ready: see its error above")
            raise
        if error is not None:
            self._give_up_grader(name, error)
        del self._fatal_builds[name]
        process.built.add(name)

    def _give_up_grader(self, name: str, error: str) -> None:
        if name in self._required:
            raise GraderStartError(f"{self._required[name]}: {error}")
        log.error("the grader %r, which a row of the data names, is unavailable: %s", name, error)
        self._unavailable[name] = error

    async def _work(self, process: GradingProcess, batch: Sequence[Job[Any]]) -> None:
        """Conclude the jobs; those behind one that ends the process are queued again, and the end is raised."""
        left: deque[Job[Any]] = deque()
        for job in batch:
            if job.grader in self._unavailable:
                job.conclude(job.give_up("unavailable", self._unavailable[job.grader]))
            else:
                left.append(job)
        process.send([job.message for job in left])
        while left:
            try:
                reply = await process.reply(left[0].timeout_s)
            except (GradingHangs, GradingEnded) as end:
                _judge(left, end)
                self._queue.again(left)
                raise
            job = left.popleft()
            job.conclude(job.read(reply))


def _judge(left: deque[Job[Any]], end: Exception) -> None:
    """Conclude the first job, with which the process ended, unless it gets a second try."""
    culprit = left[0]
    if isinstance(end, GradingEnded) and not culprit.crashes:
        culprit.crashes += 1
        return
    culprit.conclude(culprit.give_up("crash" if isinstance(end, GradingEnded) else "timeout", ""))
    left.popleft()


def _unmeasured(reason: str, detail: str) -> None:
    log.warning("a response was not measured (%s): look at metrics.reflection_patterns", reason)
