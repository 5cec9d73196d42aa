"""Grading and measuring in processes that are killed at a deadline and replaced.

The parent keeps the deadlines: an alarm inside the process does not interrupt a long call in C, and a thread cannot be
killed.
"""

import asyncio
import json
import logging
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Any

from dapo.algo.text_statistics import TextStatistics
from dapo.contracts.verdicts import UNAVAILABLE
from dapo.spec.tree.graders import AnyGrader, CodeGrader
from services.verifier.graders import Verdict, text_for_grader, wrong
from services.verifier.grading.child_process import (
    COMMAND,
    START_DEADLINE_S,
    GradingEnded,
    GradingHangs,
    GradingProcess,
)
from services.verifier.grading.jobs import GradingJob, JobQueue
from services.verifier.request import GradingRequest

log = logging.getLogger(__name__)

_START_ATTEMPTS = 3
_CODE_SLACK_S = 5.0
"""The sandbox of `code` ends programs at their own deadline; this much later the pool kills the process."""


class GraderStartError(RuntimeError):
    """A grading process does not start, or a grader that the spec names cannot be set up."""


class GradingPool:
    """`processes` grading processes that take jobs from one queue (JobQueue), oldest first.

    `graders` are the local ones by name. `run` must be going on while `grade` or `measure` is awaited.

    Invariant: every request gets exactly one result; a job that hangs or crashes affects no other. A job that hangs
    gets its verdict, `timeout`, at once. One that crashes is tried again, alone in its message, and gets `crash` the
    second time, so a process killed from outside costs no verdict. Measuring a text is a job of its own, so a slow
    reflection pattern costs no verdict either.

    A grader is built once in each process: those in `required` (name → the spec's field) before its first job, others
    when they are first asked for. If it cannot be built, the pool ends with GraderStartError where it is required; else
    its verdicts are `unavailable` from then on.

    Waits: for a job `timeout_s` (`code`: its own `timeout_s` and 5 s), for a process to start or a grader to be built
    60 s, with three attempts. A process may use `memory_mib` MiB of address space. Nothing survives a restart.
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
        """Run the grading processes, replacing those that end, until cancelled. Raises GraderStartError."""
        async with asyncio.TaskGroup() as group:
            for _ in range(self._processes):
                group.create_task(self._keep_process())

    async def grade(self, requests: Sequence[GradingRequest]) -> list[Verdict]:
        """A verdict for each request, in order."""
        verdicts: list[Verdict | asyncio.Future[Verdict]] = []
        for request in requests:
            options = self._graders[request.grader]
            text = text_for_grader(options, request.text, request.begun)
            if isinstance(text, Verdict):
                verdicts.append(text)
            elif len(request.gold) > options.MAX_GOLD:
                verdicts.append(wrong("bad_gold", f"{len(request.gold)} characters, {options.MAX_GOLD} may be"))
            else:
                verdicts.append(self._queue.submit(self._grading(options, request, text)))
        return [verdict if isinstance(verdict, Verdict) else await verdict for verdict in verdicts]

    async def classify(self, requests: Sequence[GradingRequest]) -> list[str]:
        """The class of each response's answer (`Grader.answer_class`), in order; empty where none was found.

        Each is a job of its own, so one that takes too long costs no verdict.
        """
        classes: list[Verdict | asyncio.Future[str]] = []
        for request in requests:
            text = text_for_grader(self._graders[request.grader], request.text, request.begun)
            if not isinstance(text, Verdict):
                message = ("classify", request.grader, text)
                job = GradingJob(message, str, _unclassified, self._timeout_s, request.grader)
                classes.append(self._queue.submit(job))
            else:
                classes.append(text)
        return ["" if isinstance(found, Verdict) else await found for found in classes]

    async def check_golds(self, golds: Sequence[tuple[str, str]]) -> list[str]:
        """What is wrong with the gold answer of each (grader, gold answer), in order; empty where nothing is.

        Raises GraderStartError where a grader is unavailable.
        """
        problems: list[str | asyncio.Future[str]] = []
        for name, gold in golds:
            if len(gold) > (most := self._graders[name].MAX_GOLD):
                problems.append(f"{len(gold)} characters, {most} may be")
            else:
                job = GradingJob(("check", name, gold), str, _unchecked, self._timeout_s, name)
                problems.append(self._queue.submit(job))
        found = [problem if isinstance(problem, str) else await problem for problem in problems]
        for name, _ in golds:
            if name in self._unavailable:
                raise GraderStartError(f"grader {name!r}: {self._unavailable[name]}")
        return found

    async def measure(self, texts: Sequence[str], reflection_patterns: Sequence[str]) -> list[TextStatistics | None]:
        """Statistics of each text, in order; None for one that took too long or too much memory."""
        patterns = list(reflection_patterns)
        results = [
            self._queue.submit(
                GradingJob(
                    ("measure", text, patterns), lambda reply: TextStatistics(*reply), _unmeasured, self._timeout_s
                )
            )
            for text in texts
        ]
        return [await result for result in results]

    def _grading(self, options: AnyGrader, request: GradingRequest, text: str) -> GradingJob[Verdict]:
        message = ("grade", request.grader, text, request.gold)
        job = GradingJob(message, lambda reply: Verdict(*reply), wrong, self._timeout_s, request.grader)
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
        for _ in range(_START_ATTEMPTS):
            process = await GradingProcess.start(self._configuration)
            if process is not None:
                return process
        raise GraderStartError(f"`{' '.join(COMMAND)}` does not start: see its error above in this log")

    async def _serve(self, process: GradingProcess) -> None:
        """Send jobs to the process until it hangs or ends. Raises GradingHangs, GradingEnded, GraderStartError."""
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
            if self._fatal_builds[name] == _START_ATTEMPTS:
                self._give_up_grader(name, f"{name!r} ends the process that makes it ready: see its error above")
            raise
        if error is not None:
            self._give_up_grader(name, error)
        del self._fatal_builds[name]
        process.built.add(name)

    def _give_up_grader(self, name: str, error: str) -> None:
        if name in self._required:
            raise GraderStartError(f"{self._required[name]}: {error}")
        # Two processes may find out side by side.
        if self._unavailable.setdefault(name, error) is error:
            log.error("the grader %r, which a row of the data names, is unavailable: %s", name, error)

    async def _work(self, process: GradingProcess, batch: Sequence[GradingJob[Any]]) -> None:
        """Have the jobs done. Where one hangs or crashes, queues those behind it again and raises."""
        left: deque[GradingJob[Any]] = deque()
        for job in batch:
            if job.grader in self._unavailable:
                job.conclude(job.give_up(UNAVAILABLE, self._unavailable[job.grader]))
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


def _judge(left: deque[GradingJob[Any]], end: Exception) -> None:
    """Conclude the first job, which the process was working on when it ended, unless it gets a second try."""
    culprit = left[0]
    if isinstance(end, GradingEnded) and not culprit.crashes:
        culprit.crashes += 1
        return
    culprit.conclude(culprit.give_up("crash" if isinstance(end, GradingEnded) else "timeout", ""))
    left.popleft()


def _unclassified(reason: str, detail: str) -> str:
    log.warning("the answer of a response got no class (%s): in maj@k it counts by its spelling", reason)
    return ""


def _unchecked(reason: str, detail: str) -> str:
    return f"it cannot be checked ({reason})"


def _unmeasured(reason: str, detail: str) -> None:
    log.warning("a response was not measured (%s): look at metrics.reflection_patterns", reason)
