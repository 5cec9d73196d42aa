"""The learner's asynchronous side: one event loop in a thread of its own, where Redis and the weight groups live.

Heartbeats and joins go on while the main thread is inside a training step that takes minutes.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

Result = TypeVar("Result")

_COLLECTIVE_THREADS = 256
"""Bound on blocking calls at one time: a few a generator at most (some may still wait for their timeouts)."""


class ControlLoop:
    """An event loop in a daemon thread, for what must go on while the main thread trains or waits in a collective.

    The bus, the publisher and everything else asynchronous of a rank live on it. `call` runs a coroutine to its end for
    the main thread, `begin` and `beside` next to it, `repeat` again and again until the process ends. What ends a
    repeated action is raised by `check`, which the main loop calls before each decision.
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_COLLECTIVE_THREADS, thread_name_prefix="collective"))
        self._background: list[Future[NoReturn]] = []
        threading.Thread(target=self._loop.run_forever, name="control", daemon=True).start()

    def call(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        """Run to the end and return the result, or raise what it raised."""
        return self.begin(coroutine).result()

    def begin(self, coroutine: Coroutine[Any, Any, Result]) -> Future[Result]:
        """Run beside the caller."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    @contextmanager
    def beside(self, coroutine: Coroutine[Any, Any, None]) -> Iterator[None]:
        """Run beside what is done within, and end it afterwards."""
        running = self.begin(coroutine)
        try:
            yield
        finally:
            running.cancel()

    def repeat(self, period_s: float, action: Callable[[], Awaitable[None]]) -> None:
        """Run `action` every so often until the process ends; see `check`."""
        self._background.append(asyncio.run_coroutine_threadsafe(_repeat(period_s, action), self._loop))

    def check(self) -> None:
        """Raise what ended a repeated action, if anything did."""
        for future in self._background:
            if future.done():
                future.result()


async def _repeat(period_s: float, action: Callable[[], Awaitable[None]]) -> NoReturn:
    while True:
        await action()
        await asyncio.sleep(period_s)
