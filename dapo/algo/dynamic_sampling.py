"""Dynamic sampling (DAPO, arXiv 2503.14476 section 3.2): which groups carry a gradient, and how many do."""

from collections import deque
from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

_LOWEST_UPPER_BOUND = 0.05
"""Floor of `KeepRate.upper`: at most 20 prompts are in flight for each group that is needed."""


def is_informative(correct: Sequence[bool]) -> bool:
    """Whether 0 < #correct < G. Takes raw verdicts, not shaped rewards, which also differ where only lengths do."""
    return any(correct) and not all(correct)


class KeepRate:
    """Share of settled groups that were kept, over a sliding window of the newest ones.

    The window starts with `prior` imaginary kept groups, which real ones replace: without them a single early drop
    would set off a burst of prompts.
    """

    def __init__(self, *, window: int = 512, prior: int = 8) -> None:
        if not 0 <= prior < window:
            raise ValueError(f"prior = {prior}: must be at least 0 and less than window = {window}")
        self._window: deque[bool] = deque([True] * prior, maxlen=window)
        self._kept = prior
        self._prior = prior
        self.observed = 0
        """Groups observed since the start."""

    def observe(self, kept: bool) -> None:
        """Count one settled group: kept, or else filtered or failed."""
        if len(self._window) == self._window.maxlen:
            self._kept -= self._window.popleft()
            self._prior = max(0, self._prior - 1)
        self._window.append(kept)
        self._kept += kept
        self.observed += 1

    @property
    def mean(self) -> float:
        """Share kept of the real observations in the window; 1.0 before the first."""
        real = len(self._window) - self._prior
        return (self._kept - self._prior) / real if real else 1.0

    def upper(self, confidence: float) -> float:
        """One-sided upper bound on the keep rate (Wilson's score interval), in [_LOWEST_UPPER_BOUND, 1].

        1.0 at the start and as long as every group is kept. Raises ValueError unless 0.5 ≤ confidence < 1.
        """
        if not 0.5 <= confidence < 1:
            raise ValueError(f"confidence = {confidence}: must be at least 0.5 and less than 1")
        count = len(self._window)
        if self._kept == count:
            return 1.0
        z2 = NormalDist().inv_cdf(confidence) ** 2
        rate = self._kept / count
        spread = sqrt(z2 * rate * (1 - rate) / count + z2 * z2 / (4 * count * count))
        bound = (rate + z2 / (2 * count) + spread) / (1 + z2 / count)
        return min(1.0, max(_LOWEST_UPPER_BOUND, bound))

    def is_low(self, threshold: float, *, at_least: int = 32) -> bool:
        """Whether the share kept is below `threshold`; False before `at_least` groups were observed."""
        return self.observed >= at_least and self.mean < threshold
