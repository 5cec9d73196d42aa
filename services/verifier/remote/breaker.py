"""When to leave a service alone that fails again and again."""

from collections.abc import Callable

FAILURES = 5
"""Failed tries in a row after which the service is left alone."""
OPEN_S = 15.0
"""For how long, before one request tries it again."""


class CircuitBreaker:
    """Closed, open, or half open with one request on trial. Invariant: while open, no request is sent."""

    def __init__(self, clock: Callable[[], float], *, failures: int = FAILURES, open_s: float = OPEN_S) -> None:
        self._clock = clock
        self._limit = failures
        self._open_s = open_s
        self._failures = 0
        self._open_until: float | None = None
        self._on_trial = False

    def admits(self) -> bool:
        """Whether a request may be sent now; one that may must be followed by `succeeded`, `failed` or `abandoned`."""
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
        """The request ended without telling anything of the service, e.g. as its caller was cancelled."""
        self._on_trial = False
