"""What grading processes are asked to do, and the order in which they get it."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Generic, TypeVar

T = TypeVar("T")

BATCH = 32
"""Jobs of one message: what saves round trips; those behind a hanging one go to another process."""


@dataclass(eq=False)
class Job(Generic[T]):
    message: tuple[Any, ...]
    """As the process gets it."""
    read: Callable[[Any], T]
    """The result, from the process's reply."""
    give_up: Callable[[str, str], T]
    """The result where there is no reply, from the reason and a detail, which may be empty."""
    timeout_s: float
    grader: str | None = None
    """What must be built in the process first."""
    alone: bool = False
    """Too long to keep others waiting in the same message."""
    crashes: int = 0
    number: int = 0
    result: "asyncio.Future[T]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def __lt__(self, other: "Job[Any]") -> bool:
        return self.number < other.number

    @property
    def goes_alone(self) -> bool:
        return self.alone or self.crashes > 0

    def conclude(self, result: T) -> None:
        if not self.result.done():  # its caller may have been cancelled
            self.result.set_result(result)


class JobQueue:
    """Oldest first; what is queued again keeps its age."""

    def __init__(self) -> None:
        self._jobs: asyncio.PriorityQueue[Job[Any]] = asyncio.PriorityQueue()
        self._numbers = count()

    def submit(self, job: Job[T]) -> "asyncio.Future[T]":
        job.number = next(self._numbers)
        self._jobs.put_nowait(job)
        return job.result

    def again(self, jobs: Iterable[Job[Any]]) -> None:
        for job in jobs:
            self._jobs.put_nowait(job)

    async def next_batch(self) -> list[Job[Any]]:
        """Jobs for one message."""
        batch = [await self._jobs.get()]
        while not batch[-1].goes_alone and len(batch) < BATCH and not self._jobs.empty():
            job = self._jobs.get_nowait()
            if job.goes_alone:
                self._jobs.put_nowait(job)
                break
            batch.append(job)
        return batch
