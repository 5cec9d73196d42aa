"""Tells when gradings fail, without telling it again and again."""

from collections import Counter
from collections.abc import Callable, Iterable

from services.verifier.graders import Verdict

PERIOD_S = 60.0
"""Between two alerts at least; what is counted is older by no more than two of these."""
SHARE = 0.05
VERDICTS = 16
"""So many are counted before a share means anything."""


class FailureAlarm:
    """Goes off where SHARE of the verdicts of a while are failures of the grader."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since = clock()
        self._silent_until = self._since
        self._verdicts = 0
        self._failures: Counter[tuple[str, str]] = Counter()
        self._detail = ""

    def observe(self, verdicts: Iterable[tuple[str, Verdict]]) -> str | None:
        """Of each, the grader's name. Returns what to tell, if anything."""
        now = self._clock()
        if now - self._since > 2 * PERIOD_S:
            self._restart(now)
        for grader, verdict in verdicts:
            self._verdicts += 1
            if verdict.failed:
                self._failures[grader, verdict.reason] += 1
                self._detail = verdict.extracted or self._detail
        failed = self._failures.total()
        if now < self._silent_until or self._verdicts < VERDICTS or failed < SHARE * self._verdicts:
            return None
        reasons = ", ".join(f"{grader} {reason} {count}" for (grader, reason), count in self._failures.most_common(3))
        message = f"{failed} of {self._verdicts} gradings failed ({reasons})" + (
            f": {self._detail}" if self._detail else ""
        )
        self._silent_until = now + PERIOD_S
        self._restart(now)
        return message

    def _restart(self, now: float) -> None:
        self._since = now
        self._verdicts = 0
        self._failures.clear()
        self._detail = ""
