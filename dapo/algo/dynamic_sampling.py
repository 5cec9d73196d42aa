"""Dynamic sampling (DAPO, arXiv 2503.14476 section 3.2): which groups carry a gradient, how many do, and what is done
where they do not: the run ends after too many, and prompts may rest."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from enum import StrEnum
from math import sqrt
from statistics import NormalDist
from typing import NamedTuple

_LOWEST_UPPER_BOUND = 0.05
"""Floor of `KeepRate.upper`: at most 20 prompts are in flight for each group that is needed."""
_TOLD_AFTER = 2
"""Batches' worth of uniform groups in a row of which people are told."""
_NEVER = -1


class Uniform(StrEnum):
    """Why a group has no gradient."""

    CORRECT = "all correct"
    WRONG = "all wrong"


def uniform_kind(correct: Sequence[bool]) -> Uniform | None:
    """None for an informative group. Takes raw verdicts, not shaped rewards, which also differ where only lengths do.
    Raises ValueError for none."""
    if not correct:
        raise ValueError("a group without a verdict is of no kind")
    if all(correct):
        return Uniform.CORRECT
    return None if any(correct) else Uniform.WRONG


def is_informative(correct: Sequence[bool]) -> bool:
    """Whether 0 < #correct < G, on raw verdicts as above; a group without a verdict is not."""
    return bool(correct) and uniform_kind(correct) is None


class UniformStreak:
    """Groups that were all correct or all wrong, one after the other since the last that was kept.

    B groups are a batch's worth. After two batches' worth people are told, or one batch before the end where the limit
    is not above two; after `limit` batches' worth (None: never) sampling on is given up. The reference code of DAPO has
    such a bound for each batch (`max_num_gen_batches`); here any kept group begins the count anew.
    """

    def __init__(self, prompts_per_step: int, limit: int | None) -> None:
        self._size = prompts_per_step
        self._limit = limit
        self._groups: Counter[str] = Counter()

    def take_up(self, groups: Mapping[str, int]) -> None:
        """Go on from another's count, by kind."""
        self._groups = Counter(groups)

    def observe(self, kind: Uniform | None) -> None:
        """Count one settled group; None is one that was kept."""
        if kind is None:
            self._groups.clear()
        else:
            self._groups[kind] += 1

    def count(self, kind: Uniform) -> int:
        return self._groups[kind]

    def __len__(self) -> int:
        return self._groups.total()

    @property
    def is_long(self) -> bool:
        """People should be told."""
        batches = _TOLD_AFTER if self._limit is None else min(_TOLD_AFTER, self._limit - 1)
        return 0 < batches * self._size <= len(self)

    @property
    def is_over(self) -> bool:
        """There have been as many as the limit says."""
        return self._limit is not None and len(self) >= self._limit * self._size


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


class RowStreak(NamedTuple):
    """Groups of one row of the data in a row that were of one kind."""

    kind: Uniform
    groups: int
    until: int
    """Last epoch in which the row rests; −1 where it does not."""

    def stored(self) -> str:
        return f"{self.groups} {self.until} {self.kind}"


class Resting:
    """The rule as a state machine, by ids of rows.

    Once `after` groups of a row in a row were all correct, or all of them all wrong, the row is left out of the next
    `epochs` epochs. Then it is asked again, and one more such group sends it back; one that is kept, or of the other
    kind, begins the count anew. `after` None: no row rests, and nothing is remembered.
    """

    def __init__(self, after: int | None, epochs: int) -> None:
        self._after = after
        self._epochs = epochs
        self._rows: dict[str, RowStreak] = {}

    def take_up(self, stored: Mapping[str, str]) -> None:
        """Go on with what `observe` has returned, by row."""
        for row, text in stored.items():
            groups, until, kind = text.split(maxsplit=2)
            self._rows[row] = RowStreak(Uniform(kind), int(groups), int(until))

    def observe(self, row: str, epoch: int, kind: Uniform | None) -> str | None:
        """Count a group of that epoch; None is one that was kept. Returns what is to be remembered of the row, empty
        for nothing, or None without the rule."""
        if self._after is None:
            return None
        before = self._rows.pop(row, None)
        if kind is None:
            return ""
        groups, until = 1, _NEVER
        if before is not None and before.kind == kind:
            groups, until = before.groups + 1, before.until
        if groups >= self._after:
            # A group of an earlier epoch may be settled last.
            until = max(until, epoch + self._epochs)
        self._rows[row] = streak = RowStreak(kind, groups, until)
        return streak.stored()

    def rests(self, row: str, epoch: int) -> bool:
        """Whether that epoch leaves the row out."""
        streak = self._rows.get(row)
        return self._after is not None and streak is not None and epoch <= streak.until
