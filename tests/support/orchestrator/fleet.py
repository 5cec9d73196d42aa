"""A run whose generators and learner are formulas: what it would measure, step by step, with so many generators."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from dapo.algo.scaling import Limits, advise, best_share

RESPONSES = 512
_LENGTH = 1000.0
_TRAIN_S = 60.0


@dataclass(frozen=True)
class Load:
    """What a step asks for. At keep rate 1 and 1000 tokens, two generators keep up with the learner."""

    keep_rate: float = 1.0
    length: float = _LENGTH
    slowing: float = 0.0
    """A generator's tokens a second go with the length to the power of −slowing."""

    @property
    def tokens(self) -> float:
        return RESPONSES * self.length / self.keep_rate

    @property
    def train_s(self) -> float:
        """Half of it grows with the length."""
        return _TRAIN_S * (1 + self.length / _LENGTH) / 2

    @property
    def balance(self) -> float:
        """n*."""
        return self.tokens / (self.rate * self.train_s)

    @property
    def rate(self) -> float:
        """Tokens a second of one generator."""
        return _RATE * (_LENGTH / self.length) ** self.slowing


_RATE = RESPONSES * _LENGTH / (2 * _TRAIN_S)


@dataclass(frozen=True)
class Fleet:
    """What does not change while the run goes on."""

    staleness: int = 1
    noise: float = 0.0
    """Standard deviation of a batch's generation time, as a share of it."""
    start_s: float = 120.0
    """Before a new generator works."""
    longest_s: float = 0.0
    """No batch is generated faster, however many generators there are."""
    seed: int = 1


class Seen(NamedTuple):
    """Of one step."""

    count: int
    """Generators that are to work after it."""
    row: dict[str, float | None]
    load: Load
    reason: str

    @property
    def share(self) -> float:
        """f, with a generator on as many devices as the learner."""
        return best_share(self.count, 1)


class _Batch(NamedTuple):
    began: float
    done: float
    tokens: float

    def within(self, begin: float, end: float) -> float:
        """Share of its generation that lies there."""
        return max(0.0, min(end, self.done) - max(begin, self.began)) / (self.done - self.began)


def simulate(
    load: Callable[[int], Load], steps: int, count: int, fleet: Fleet = Fleet(), limits: Limits | None = None
) -> list[Seen]:
    """Steps from 1. Batch b is generated after batch b − 1, once version b − staleness is there. `limits` None: the
    number of generators is fixed."""
    rng = random.Random(fleet.seed)
    changes = [(-fleet.start_s, count)]
    batches: list[_Batch] = []
    trained = [0.0]
    rows: list[dict[str, float | None]] = []
    seen: list[Seen] = []
    since = 0

    def generate(until: int) -> None:
        while len(batches) < until:
            number = len(batches)
            free = batches[-1].done if batches else 0.0
            began = max(free, trained[max(0, number - fleet.staleness)])
            wanted = load(number + 1)
            took = wanted.tokens / (wanted.rate * _working(changes, began, fleet.start_s))
            took *= max(0.2, rng.gauss(1.0, fleet.noise))
            batches.append(_Batch(began, began + max(took, fleet.longest_s), wanted.tokens))

    for step in range(1, steps + 1):
        wanted = load(step)
        generate(step)
        begin = trained[-1]
        end = max(begin, batches[step - 1].done) + wanted.train_s
        trained.append(end)
        generate(step + fleet.staleness)
        parts = [(one.within(begin, end), one) for one in batches[max(0, step - 2 - fleet.staleness) :]]
        busy = sum(part * (one.done - one.began) for part, one in parts) / (end - begin)
        row = {
            "step": float(step),
            "step_s": end - begin,
            "learner_idle": 1 - wanted.train_s / (end - begin),
            "generator_idle": max(0.0, 1 - busy),
            "generated_tokens_per_s": sum(part * one.tokens for part, one in parts) / (end - begin),
            "generators": float(_working(changes, end, fleet.start_s)),
            "keep_rate": wanted.keep_rate,
            "response_length_mean": wanted.length,
        }
        rows.append(row)
        reason = ""
        if limits is not None:
            advice = advise(rows, responses=RESPONSES, count=count, limits=limits, since=since)
            reason = advice.reason
            if advice.wanted != count:
                count, since = advice.wanted, step
                changes.append((end, count))
        seen.append(Seen(count, row, wanted, reason))
    return seen


def _working(changes: list[tuple[float, int]], at: float, start_s: float) -> int:
    """New ones come `start_s` after they were asked for, those that leave do at once."""
    arrived = next(number for when, number in reversed(changes) if when + start_s <= at)
    asked = [number for when, number in changes if when <= at]
    return min(arrived, asked[-1])
