"""Jobs for grading processes, and the queue that orders them."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_BATCH_JOBS = 32
"""Jobs of one message, which saves round trips. Those behind a job that hangs go to another process."""


@dataclass(eq=False)
class GradingJob(Generic[T]):
    """A text to grade or to measure. Ordered by age."""

    message: tuple[Any, ...]
    """The job as sent to the process, see `child_main`."""
    read: Callable[[Any], T]
    """Makes the result from the process's reply."""
    give_up: Callable[[str, str], T]
    """Makes the result without a reply, from a reason and a detail, which may be empty."""
    timeout_s: float
    grader: str | None = None
    """The grader that must be built in the process first."""
    alone: bool = False
    """Sent in a message of its own, as it may take long."""
    crashes: int = 0
    number: int = 0
    result: "asyncio.Future[T]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __lt__(self, other: "GradingJob[Any]") -> bool:
        return self.number < other.number

    @property
    def goes_alone(self) -> bool:
        return self.alone or self.crashes > 0

    def conclude(self, result: T) -> None:
        if not self.result.done():  # its caller may have been cancelled
            self.result.set_result(result)


class JobQueue:
    """Oldest first. Jobs that are queued again keep their age."""

    def __init__(self) -> None:
        self._jobs: asyncio.PriorityQueue[GradingJob[Any]] = asyncio.PriorityQueue()
        self._numbers = count()

    def submit(self, job: GradingJob[T]) -> "asyncio.Future[T]":
        job.number = next(self._numbers)
        self._jobs.put_nowait(job)
        return job.result

    def again(self, jobs: Iterable[GradingJob[Any]]) -> None:
        for job in jobs:
            self._jobs.put_nowait(job)

    async def next_batch(self) -> list[GradingJob[Any]]:
        """Wait for a job; it and those behind it that may go in the same message."""
        batch = [await self._jobs.get()]
        while not batch[-1].goes_alone and len(batch) < _BATCH_JOBS and not self._jobs.empty():
            job = self._jobs.get_nowait()
            if job.goes_alone:
                self._jobs.put_nowait(job)
                break
            batch.append(job)
        return batch
