"""How long one generator is waited for: time of its own, being no further behind the others than a bound, a sign that
it is gone, and calls that cannot be cancelled."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
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


BUCKETS_BEHIND = 3
"""One that stands still is given up once another is so many buckets ahead: as many as it can be where all wait for the
slowest (sender.py, QUEUED_BUCKETS)."""


@dataclass(slots=True)
class Progress:
    """How far one generator is with a version."""

    sent: int = 0
    """Buckets that it has."""
    since: float | None = None
    """When the sending of the next one began, in seconds of a clock that does not go back; None while none is sent."""


def laggards(progress: Mapping[str, Progress], count: int, now: float, lag_s: float) -> list[str]:
    """Who has been at one bucket for `lag_s` seconds while another got BUCKETS_BEHIND more, or all `count` of them.

    So those that are slow together are left in peace, and so is one that is alone. Pure.
    """
    ahead = max((one.sent for one in progress.values()), default=0)
    return [
        name
        for name, one in progress.items()
        if one.sent < count
        and one.since is not None
        and now - one.since >= lag_s
        and (ahead - one.sent >= BUCKETS_BEHIND or ahead == count)
    ]


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
