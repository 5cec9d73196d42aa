"""Waiting out a server that is away: one clock for all commands to it, and the retry policy of its connections."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar

from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff

log = logging.getLogger(__name__)

T = TypeVar("T")

_BACKOFF = ExponentialBackoff(cap=1.0, base=0.05)
_CALM_S = 0.5
"""A server that is starting takes connections, and refuses commands until it has read its data."""


class Outage(NamedTuple):
    """One time in which the server did not answer, and is over."""

    number: int
    """Counted from 1."""
    lasted_s: float


class OutageClock:
    """Since when a server has not answered, and how long that is waited for.

    An outage begins with the first command that fails, and is over once one succeeds and none has failed for half a
    second.
    """

    def __init__(self, shown: str, limit_s: float) -> None:
        """`shown`: the server's URL as it may be shown."""
        self.limit_s = limit_s
        self.last: Outage | None = None
        self._shown = shown
        self._began: float | None = None
        self._failed = 0.0
        self._count = 0

    def failed(self, error: Exception) -> float:
        """The server did not answer. Seconds that the outage has lasted."""
        now = self._failed = time.monotonic()
        if self._began is None:
            self._began = now
            if self.limit_s > 0:
                log.warning("no Redis at %s, waiting for it up to %g s: %s", self._shown, self.limit_s, error)
        return now - self._began

    def answered(self) -> None:
        """The server has answered."""
        if self._began is None or time.monotonic() < self._failed + _CALM_S:
            return
        lasted_s, self._began = self._failed - self._began, None
        self._count += 1
        self.last = Outage(self._count, lasted_s)
        log.warning("Redis at %s answers again, after %.1f s", self._shown, lasted_s)


class PatientRetry(Retry):
    """Repeats a command until the outage has lasted `clock.limit_s`, or this command has been tried for so long.

    A command connects within its own tries, so tries are nested. All share the clock, lest the waits multiply.
    """

    def __init__(self, clock: OutageClock) -> None:
        super().__init__(_BACKOFF, retries=-1)
        self._clock = clock

    def __deepcopy__(self, _: object) -> "PatientRetry":
        """Each connection copies its policy."""
        return self

    async def call_with_retry(
        self,
        do: Callable[[], Awaitable[T]],
        fail: Callable[..., Any],
        is_retryable: Callable[[Exception], bool] | None = None,
        with_failure_count: bool = False,
    ) -> T:
        failures, began = 0, 0.0
        while True:
            try:
                result = await do()
            except self._supported_errors as error:
                if is_retryable and not is_retryable(error):
                    raise
                failures += 1
                began = began or time.monotonic()
                await (fail(error, failures) if with_failure_count else fail(error))
                away_s = self._clock.failed(error)
                if max(away_s, time.monotonic() - began) >= self._clock.limit_s:
                    raise
                await asyncio.sleep(_BACKOFF.compute(failures))
            else:
                self._clock.answered()
                return result
