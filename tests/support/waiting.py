"""Waiting for what comes about by itself."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

T = TypeVar("T")


async def eventually(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Return once the condition holds; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the awaited condition did not come about"
        await asyncio.sleep(0.02)


def until(ask: Callable[[], T], enough: Callable[[T], object], timeout_s: float = 120.0) -> T:
    """The first answer that is enough; fail after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not enough(found := ask()):
        assert time.monotonic() < deadline, f"not enough yet: {found}"
        time.sleep(0.1)
    return found


@asynccontextmanager
async def beside(*work: Coroutine[Any, Any, None]) -> AsyncIterator[list[asyncio.Task[None]]]:
    """The work goes on while the block runs, and is cancelled with it; its tasks in the same order."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
