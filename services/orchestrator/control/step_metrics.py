"""What the orchestrator measures of a step besides the groups' statistics: rates and idle shares."""

import math
from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dapo.v1 import messages_pb2 as pb


class _Counters(NamedTuple):
    tokens: int
    busy_s: float
    up_s: float

    def since(self, before: "_Counters") -> "_Counters":
        return _Counters(self.tokens - before.tokens, self.busy_s - before.busy_s, self.up_s - before.up_s)


class _Reading(NamedTuple):
    counters: _Counters
    at_s: float


_ZERO = _Counters(0, 0.0, 0.0)
_STARTING = "starting"
_WINDOW_S = 4.0
"""Two beats of a generator: between two of them its counters stand still, and it counts responses when they end."""


class GeneratorMeter:
    """Rates of the generators, from the counters that they tell of every two seconds. One whose engine starts does not
    count.

    The rate of each is that of its own clock since the last step, or since the newest reading that is four seconds old
    where steps are shorter. A generator started anew counts again from zero.
    """

    def __init__(self, generated_tokens: int = 0) -> None:
        """`generated_tokens` before the first reading."""
        self._seen: dict[str, deque[_Reading]] = {}
        self._time_s: float | None = None
        self.generated_tokens = generated_tokens

    def measure(self, members: Iterable[pb.Member], now_s: float) -> dict[str, float]:
        """`now_s` is a monotonic clock's. No rates before the counters have grown. Generators that evaluate do not
        count."""
        rate, busy_s, up_s, working = 0.0, 0.0, 0.0, 0
        for member in (one for one in members if not one.evaluates):
            seen = self._take(member, now_s)
            if member.state == _STARTING:
                while len(seen) > 1:  # its clock counts from when it serves
                    seen.popleft()
                continue
            (first, began_s), (last, _) = seen[0], seen[-1]
            grown = last.since(first)
            # One that was not there before has no clock of its own for the time before.
            seconds = grown.up_s if first.up_s else now_s - began_s
            if grown.up_s > 0 and seconds > 0:
                rate += grown.tokens / seconds
                busy_s += grown.busy_s
                up_s += grown.up_s
                working += 1
        self._time_s = now_s
        metrics: dict[str, float] = {"generated_tokens": self.generated_tokens}
        if up_s > 0:
            metrics["generators"] = working
            metrics["generated_tokens_per_s"] = rate
            metrics["generator_idle"] = min(1.0, max(0.0, 1.0 - busy_s / up_s))
        return metrics

    def _take(self, member: pb.Member, now_s: float) -> deque[_Reading]:
        """Its readings over the window, the newest among them."""
        now = _Counters(member.generated_tokens, member.busy_s, member.up_s)
        seen = self._seen.get(member.generator_id)
        if seen is None or now.up_s < seen[-1].counters.up_s or now.tokens < seen[-1].counters.tokens:
            began = [] if self._time_s is None else [_Reading(_ZERO, self._time_s)]
            seen = self._seen[member.generator_id] = deque(began)
        before = seen[-1].counters if seen else _ZERO
        self.generated_tokens += now.tokens - before.tokens
        if not seen or now.up_s > before.up_s:
            seen.append(_Reading(now, now_s))
        while len(seen) > 2 and now.up_s - seen[1].counters.up_s >= _WINDOW_S:
            seen.popleft()
        return seen


def learner_idle(metrics: Mapping[str, float]) -> float:
    """learner_wait_s / step_s; NaN when the learner did not report both."""
    wait_s, step_s = metrics.get("learner_wait_s"), metrics.get("step_s")
    if wait_s is None or not step_s:
        return math.nan
    return wait_s / step_s
