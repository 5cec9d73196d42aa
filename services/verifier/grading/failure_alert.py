"""An alert when too large a share of the gradings fails, at most once a minute."""

from collections import Counter
from collections.abc import Callable, Iterable

from services.verifier.graders import Verdict

_PERIOD_S = 60.0
"""Two alerts are at least this far apart. Verdicts are counted for at most two periods."""
_MIN_SHARE = 0.05
_MIN_VERDICTS = 16
"""No alert on fewer verdicts than these."""


class FailureAlert:
    """Counts verdicts, and says when at least 5 % of them are failures of the grader (Verdict.failed)."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._silent_until = self._since
        self._verdicts = 0
        self._failures: Counter[tuple[str, str]] = Counter()
        self._detail = ""

    def observe(self, verdicts: Iterable[tuple[str, Verdict]]) -> str | None:
        """Count (grader name, verdict) pairs. Returns the text of an alert, or None."""
        now = self._clock()
        if now - self._since > 2 * _PERIOD_S:
            self._restart(now)
        for grader, verdict in verdicts:
            self._verdicts += 1
            if verdict.failed:
                self._failures[grader, verdict.reason] += 1
                self._detail = verdict.extracted or self._detail
        failed = self._failures.total()
        if now < self._silent_until or self._verdicts < _MIN_VERDICTS or failed < _MIN_SHARE * self._verdicts:
            return None
        reasons = ", ".join(f"{grader} {reason} {count}" for (grader, reason), count in self._failures.most_common(3))
        message = f"{failed} of {self._verdicts} gradings failed ({reasons})" + (
            f": {self._detail}" if self._detail else ""
        )
        self._silent_until = now + _PERIOD_S
        self._restart(now)
        return message

    def _restart(self, now: float) -> None:
        self._since = now
        self._verdicts = 0
        self._failures.clear()
        self._detail = ""
