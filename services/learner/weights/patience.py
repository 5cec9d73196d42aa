"""How long one generator is waited for: time of its own, a sign that it is gone, and calls that cannot be cancelled."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from services.learner.weights.dialogue import MemberFailed

Result = TypeVar("Result")


class Allowance:
    """Seconds that one generator may take in all. They pass within `running`, not while it waits for the learner."""

    def __init__(self, seconds: float) -> None:
        self.left_s = seconds

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Raises TimeoutError once nothing is left."""
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            async with asyncio.timeout(self.left_s):
                yield
        finally:
            self.left_s = max(0.0, self.left_s - (clock() - began))


async def unless_gone(gone: asyncio.Future[str], work: Awaitable[Result]) -> Result:
    """The result of `work`. Once `gone` has a reason, `work` is cancelled and MemberFailed raised with it."""
    working = asyncio.ensure_future(work)
    watched: set[asyncio.Future[Any]] = {working, gone}
    try:
        await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise MemberFailed(gone.result())
    finally:
        working.cancel()


class GroupCalls:
    """Blocking calls of weight groups, each in a thread of the loop's pool.

    A thread cannot be cancelled: a call that nobody waits for any more goes on until its own timeout. `running` says
    how many a generator has under way, so that one that fails again and again is not given ever more of them.
    """

    def __init__(self) -> None:
        self._running: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)

    def start(self, generator_id: str, call: Callable[..., None], *args: Any) -> asyncio.Future[None]:
        """Begin a call for this generator, beside the caller."""
        running = self._running[generator_id]
        begun = asyncio.ensure_future(asyncio.to_thread(call, *args))
        running.add(begun)

        def ended(future: asyncio.Future[None]) -> None:
            running.discard(future)
            if not future.cancelled():
                future.exception()  # Of a call that was given up nobody else asks.

        begun.add_done_callback(ended)
        return begun

    async def run(self, generator_id: str, call: Callable[..., None], *args: Any) -> None:
        """Raises what the call raises. Cancelled, it returns at once and leaves the call to its timeout."""
        await asyncio.shield(self.start(generator_id, call, *args))

    def running(self, generator_id: str) -> int:
        return len(self._running[generator_id])
