"""How much one caller may ask for: requests over time, and streams at once. Pure state; the clock is an argument."""

import math
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

_KEYS = 10_000
"""Callers that are remembered; whoever asked longest ago is forgotten first."""
_BURST_S = 10.0
"""So many seconds' worth of requests may come at once."""
_STREAM_RETRY_S = 10.0


class TooManyRequests(Exception):
    """Of one caller, for now."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = max(1, math.ceil(retry_after_s))


class RateLimit:
    """A token bucket for each caller."""

    def __init__(self, per_minute: int) -> None:
        self._per_minute = per_minute
        self._per_s = per_minute / 60
        self._capacity = max(1.0, self._per_s * _BURST_S)
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """(requests, when that was)."""

    def take(self, key: str, now_s: float) -> None:
        """Raises TooManyRequests."""
        left = self._left_at(key, now_s)
        self._left.pop(key, None)
        self._left[key] = (left - 1 if left >= 1 else left, now_s)
        if len(self._left) > _KEYS:
            self._left.popitem(last=False)
        self._check(left)

    def check(self, key: str, now_s: float) -> None:
        """Takes none. Raises TooManyRequests where `take` would."""
        self._check(self._left_at(key, now_s))

    def _left_at(self, key: str, now_s: float) -> float:
        left, then_s = self._left.get(key, (self._capacity, now_s))
        return min(self._capacity, left + max(0.0, now_s - then_s) * self._per_s)

    def _check(self, left: float) -> None:
        if left < 1:
            raise TooManyRequests(
                f"more than {self._per_minute} requests a minute: wait before the next", (1 - left) / self._per_s
            )


class StreamLimit:
    """Streams that are open at once, of each caller and of all together."""

    def __init__(self, of_one: int, of_all: int) -> None:
        self._of_one, self._of_all = of_one, of_all
        self._open: Counter[str] = Counter()

    @property
    def total(self) -> int:
        """That are open now."""
        return self._open.total()

    @contextmanager
    def one(self, key: str) -> Iterator[None]:
        """While it is open. Raises TooManyRequests."""
        if self._open[key] >= self._of_one or self._open.total() >= self._of_all:
            raise TooManyRequests(
                f"{self._open[key]} streams of this caller are open, {self._open.total()} of all; at most "
                f"{self._of_one} and {self._of_all} may be: close one",
                _STREAM_RETRY_S,
            )
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
