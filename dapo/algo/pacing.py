"""When prompts are issued and when a train batch is cut. The derivation is in docs/pacing.md.

Invariant: a group is trained on at most S versions after it was issued. Prompts are issued at a pace that keeps to it,
instead of dropping groups that are too old: with a keep rate of 1 no group is ever surplus, in whatever order
generation finishes.
"""

from collections import Counter
from collections.abc import Mapping
from math import floor
from typing import NamedTuple

from dapo.algo.dynamic_sampling import KeepRate

_ROUNDING = 1e-9


class Cut(NamedTuple):
    batch: int
    groups: list[str]
    """Groups of the batch, oldest first."""
    surplus: list[str]
    """Kept groups that no later batch may use, oldest first."""
    passed: list[str]
    """Filtered and surplus groups that were issued before the youngest of the batch, oldest first; each is named by one
    cut. With the batch's own they are what was graded up to there: of two batches cut together each has its own."""


class Issue(NamedTuple):
    """When a group was issued."""

    version: int
    serial: int
    """Number of the prompt, in the order of the data, from 0."""


class Pacing:
    """The asynchrony rules as a state machine: it is told what happened and says what may happen next.

    Batch b turns version b into version b + 1. A group is in flight from `issued` until it is settled; a kept one is
    then ready until a cut takes it. Every method raises ValueError for an event that cannot happen.
    """

    def __init__(
        self, *, prompts_per_step: int, max_staleness: int, steps: int, keep_rate: KeepRate, confidence: float = 0.9
    ) -> None:
        self._size = prompts_per_step
        self._staleness = max_staleness
        self._steps = steps
        self._keep_rate = keep_rate
        self._confidence = confidence
        self._in_flight: dict[str, Issue] = {}
        self._ready: dict[str, Issue] = {}
        self._passed: dict[str, Issue] = {}
        self._cut = 0
        self._trained = 0
        self._version = 0

    def take_up(
        self,
        *,
        cut: int,
        trained: int,
        version: int,
        in_flight: Mapping[str, Issue],
        ready: Mapping[str, Issue],
        passed: Mapping[str, Issue],
    ) -> None:
        """Go on where another left, before the first event: it had cut and trained so many batches, and
        knew of these groups. The keep rate has a history of its own."""
        self._cut, self._trained, self._version = cut, max(trained, version), version
        self._in_flight, self._ready, self._passed = dict(in_flight), dict(ready), dict(passed)

    def end_after(self, steps: int) -> None:
        """The run has only so many batches, fewer than was said. Raises ValueError where more are cut."""
        if not self._cut <= steps <= self._steps:
            raise ValueError(f"the run cannot end after {steps} of {self._steps} batches: {self._cut} are cut")
        self._steps = steps

    @property
    def steps(self) -> int:
        """Batches of the whole run."""
        return self._steps

    @property
    def version(self) -> int:
        """The newest version that every generator serves."""
        return self._version

    @property
    def in_flight(self) -> int:
        """Groups issued and neither kept nor dropped."""
        return len(self._in_flight)

    def is_in_flight(self, group_id: str) -> bool:
        return group_id in self._in_flight

    @property
    def ready(self) -> int:
        """Kept groups that wait for a batch."""
        return len(self._ready)

    @property
    def batches_cut(self) -> int:
        return self._cut

    @property
    def cut_untrained(self) -> int:
        """Batches cut and not yet trained on."""
        return self._cut - self._trained

    @property
    def all_cut(self) -> bool:
        """The run's last batch is cut: groups still in flight are of no more use."""
        return self._cut == self._steps

    @property
    def finished(self) -> bool:
        """The run's last batch is trained on."""
        return self._trained == self._steps

    def admissible(self, *, for_next_alone: bool = False) -> int:
        """How many prompts may be issued now, at the current version. `for_next_alone`: for the next batch, none ahead
        of it."""
        if self.all_cut:
            return 0
        ahead = 0 if for_next_alone else self._staleness
        usable_batches = min(self._version + ahead + 1, self._steps) - self._cut
        rate = self._keep_rate.upper(self._confidence)
        wanted = usable_batches * self._size - len(self._ready) - rate * len(self._in_flight)
        return max(0, floor(wanted / rate + _ROUNDING))

    def issued(self, group_id: str, serial: int) -> None:
        """The prompt of that number went out at the current version. Numbers tell the order of the data; one that is
        issued again keeps its own."""
        if group_id in self._in_flight or group_id in self._ready:
            raise ValueError(f"group {group_id} was issued before")
        self._in_flight[group_id] = Issue(self._version, serial)

    def kept(self, group_id: str) -> None:
        """All of the group's responses are graded and dynamic sampling keeps it."""
        self._ready[group_id] = self._settle(group_id)
        self._keep_rate.observe(True)

    def dropped(self, group_id: str) -> None:
        """The group was filtered; another prompt takes its place."""
        self._passed[group_id] = self._settle(group_id)
        self._keep_rate.observe(False)

    def failed(self, group_id: str) -> None:
        """The group could not be graded, so the keep rate does not count it; another prompt takes its place."""
        self._settle(group_id)

    def cut(self) -> Cut | None:
        """The next batch if it is due; call again after each event, until None."""
        if self.all_cut or len(self._ready) < self._size:
            return None
        batch = self._cut
        chosen = _oldest_first(self._ready)[: self._size]
        youngest = self._ready[chosen[-1]]
        if self._must_wait(batch, youngest=youngest.version):
            return None
        self._cut += 1
        passed = [
            group_id for group_id in _oldest_first(self._passed) if self._passed[group_id].serial < youngest.serial
        ]
        for group_id in passed:
            del self._passed[group_id]
        for group_id in chosen:
            del self._ready[group_id]
        return Cut(batch, chosen, self.expired(), passed)

    def expired(self) -> list[str]:
        """Ready groups that no later batch may use, oldest first; they are passed over with this call."""
        if not self._cut:
            return []
        last_chance = self._steps if self.all_cut else self._cut - 1 - self._staleness
        found = [group_id for group_id in _oldest_first(self._ready) if self._ready[group_id].version <= last_chance]
        for group_id in found:
            self._passed[group_id] = self._ready.pop(group_id)
        return found

    def trained(self, batch: int) -> None:
        """The learner has trained on `batch`. Repeating it changes nothing."""
        if batch >= self._cut:
            raise ValueError(f"batch {batch} cannot be trained: only {self._cut} batches are cut")
        self._trained = max(self._trained, batch + 1)

    def published(self, version: int) -> None:
        """Every generator serves `version`, so the batches before it are trained on."""
        if not self._version <= version <= self._cut:
            raise ValueError(f"version {version} cannot follow version {self._version} with {self._cut} batches cut")
        self._version = version
        self._trained = max(self._trained, version)

    def _settle(self, group_id: str) -> "Issue":
        if group_id not in self._in_flight:
            raise ValueError(f"group {group_id} is not in flight")
        return self._in_flight.pop(group_id)

    def _must_wait(self, batch: int, *, youngest: int) -> bool:
        """Whether a group in flight would come too late if `batch`, whose youngest group is given, were cut now."""
        rate = self._keep_rate.upper(self._confidence)
        slower = 0
        for version, count in sorted(Counter(issue.version for issue in self._in_flight.values()).items()):
            later_batches = version + self._staleness - batch
            if later_batches <= 0:
                return True
            slower += count
            if version < youngest and rate * slower > later_batches * self._size + _ROUNDING:
                return True
        return False


def _oldest_first(issues: Mapping[str, Issue]) -> list[str]:
    return sorted(issues, key=lambda group_id: issues[group_id].serial)
