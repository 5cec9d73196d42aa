"""A circuit breaker: after repeated failures, no requests to a service for a while."""

from collections.abc import Callable

_FAILURES = 5
"""Failed tries in a row that open the breaker."""
_OPEN_S = 15.0
"""How long it stays open before it admits one request on trial."""


class CircuitBreaker:
    """Closed, open, or half open with one request on trial. Invariant: while open, no request is sent."""

    def __init__(self, clock: Callable[[], float], *, failures: int = _FAILURES, open_s: float = _OPEN_S) -> None:
        self._clock = clock
        self._limit = failures
        self._open_s = open_s
        self._failures = 0
        self._open_until: float | None = None
        self._on_trial = False

    def admits(self) -> bool:
        """Whether a request may be sent now. If so, `succeeded`, `failed` or `abandoned` must be called after it."""
        if self._open_until is None:
            return True
        if self._on_trial or self._clock() < self._open_until:
            return False
        self._on_trial = True
        return True

    def succeeded(self) -> None:
        self._failures = 0
        self._open_until = None
        self._on_trial = False

    def failed(self) -> None:
        self._failures += 1
        if self._on_trial or self._failures >= self._limit:
            self._open_until = self._clock() + self._open_s
        self._on_trial = False

    def abandoned(self) -> None:
        """The request ended without saying anything about the service, e.g. because its caller was cancelled."""
        self._on_trial = False
