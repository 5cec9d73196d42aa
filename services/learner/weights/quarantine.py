"""Which generators are left alone after a failure, and for how long; and when a run has none left that can be served.

Pure: time is passed in, in seconds of a clock that does not go back.
"""

from dataclasses import dataclass
from typing import NamedTuple

from dapo.algo.progress import Looks

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
_COST_FACTOR = 10
_LONGEST_COSTLY_PAUSE_S = 1800.0


class Sentence(NamedTuple):
    """What follows from a failure."""

    pause_s: float
    first: bool
    """Whether the quarantine begins with it."""


@dataclass(slots=True)
class _Record:
    failures: int
    until: float
    costly_until: float
    """The same while others would have to wait for its next failure."""
    reason: str


class Quarantine:
    """A generator that fails is not tried for 1 s, then 2, 4 and so on up to 60 s, until it is served once.

    One whose failure has kept others waiting is not tried for ten times as long (30 min at most) while there are
    others.

    `look` counts the seconds without any generator that serves; after `no_generator_s` of them `hopeless` says so. The
    count begins with the first generator that was ready, as before that none could have been served, and stands still
    while a generator that has joined waits for the learner, which trains or replays.
    """

    def __init__(self, no_generator_s: float) -> None:
        self._no_generator_s = no_generator_s
        self._records: dict[str, _Record] = {}
        self._without_s = 0.0
        self._looks = Looks()

    def failed(self, generator_id: str, reason: str, now: float, *, cost_s: float = 0.0) -> Sentence:
        """A join or an update of this generator has failed; others have waited `cost_s` for it."""
        before = self._records.get(generator_id)
        failures = 1 if before is None else before.failures + 1
        pause_s = LONGEST_PAUSE_S
        if failures <= 6:  # More would only grow numbers that the bound cuts.
            pause_s = min(pause_s, FIRST_PAUSE_S * 2 ** (failures - 1))
        costly_s = max(pause_s, min(_COST_FACTOR * round(cost_s), _LONGEST_COSTLY_PAUSE_S))
        self._records[generator_id] = _Record(failures, now + pause_s, now + costly_s, reason)
        return Sentence(costly_s, before is None)

    def served(self, generator_id: str) -> bool:
        """This generator was updated; whether that ends a quarantine."""
        return self._records.pop(generator_id, None) is not None

    def may_try(self, generator_id: str, now: float, *, alone: bool = False) -> bool:
        """`alone`: no other is served, which would have to wait."""
        record = self._records.get(generator_id)
        return record is None or now >= (record.until if alone else record.costly_until)

    def look(self, now: float, *, ready: bool, waiting: bool, serving: bool) -> None:
        """`ready`: a generator is there to be served; `waiting`: one has joined, and it is for the learner to serve it;
        `serving`: one serves weights of this learner."""
        if ready or serving or self._looks.begun:
            passed_s = self._looks.passed(now)
            self._without_s += 0.0 if waiting else passed_s
        if serving:
            self._without_s = 0.0

    @property
    def hopeless(self) -> bool:
        return self._without_s >= self._no_generator_s

    def reasons(self) -> list[str]:
        """Of each generator in quarantine its last failure, in words."""
        return [
            f"{generator_id}: {record.reason} (failures in a row: {record.failures})"
            for generator_id, record in sorted(self._records.items())
        ]
