"""What the orchestrator measures of a step besides the groups' statistics: rates and idle shares."""

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from dapo.v1 import messages_pb2 as pb


class _Counters(NamedTuple):
    tokens: int
    busy_s: float
    up_s: float

    def since(self, before: "_Counters") -> "_Counters":
        return _Counters(self.tokens - before.tokens, self.busy_s - before.busy_s, self.up_s - before.up_s)


class GeneratorMeter:
    """Rates between two readings of the members' counters. A generator started anew counts again from zero."""

    def __init__(self, generated_tokens: int = 0) -> None:
        """`generated_tokens` before the first reading."""
        self._last: dict[str, _Counters] = {}
        self._time_s: float | None = None
        self.generated_tokens = generated_tokens

    def measure(self, members: Iterable[pb.Member], now_s: float) -> dict[str, float]:
        """`now_s` is a monotonic clock's. The first reading gives no rates. Generators that evaluate do not count."""
        growth: list[_Counters] = []
        for member in (one for one in members if not one.evaluates):
            now = _Counters(member.generated_tokens, member.busy_s, member.up_s)
            before = self._last.get(member.generator_id, _Counters(0, 0.0, 0.0))
            if now.up_s < before.up_s or now.tokens < before.tokens:
                before = _Counters(0, 0.0, 0.0)
            growth.append(now.since(before))
            self._last[member.generator_id] = now
        tokens = sum(counters.tokens for counters in growth)
        self.generated_tokens += tokens
        metrics: dict[str, float] = {"generated_tokens": self.generated_tokens}
        if self._time_s is not None and now_s > self._time_s:
            metrics["generated_tokens_per_s"] = tokens / (now_s - self._time_s)
            up_s = math.fsum(counters.up_s for counters in growth)
            if up_s > 0:
                busy_s = math.fsum(counters.busy_s for counters in growth)
                metrics["generator_idle"] = min(1.0, max(0.0, 1.0 - busy_s / up_s))
        self._time_s = now_s
        return metrics


def learner_idle(metrics: Mapping[str, float]) -> float:
    """learner_wait_s / step_s; NaN when the learner did not report both."""
    wait_s, step_s = metrics.get("learner_wait_s"), metrics.get("step_s")
    if wait_s is None or not step_s:
        return math.nan
    return wait_s / step_s
