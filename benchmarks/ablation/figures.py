"""What a run's metrics say: courses over four axes, figures of a run, and their spread over seeds. Pure."""

import math
import statistics
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from dapo.records.curves import MetricRow, running_mean

MIB = 2**20
_WINDOW = 5
"""Steps of the running mean that stands for a run's accuracy, and over which `final_…` is taken."""
_LEAD = 2
"""Steps by which the generators run ahead of the training: asynchrony.max_staleness of every variant, and one."""
AXES: dict[str, str] = {
    "generated_tokens": "generated tokens",
    "steps": "steps",
    "updates": "optimizer updates",
    "seconds": "seconds after the first step",
}


class Spread(NamedTuple):
    mean: float
    deviation: float
    """Over seeds, with n − 1; NaN with fewer than two."""

    def as_json(self) -> dict[str, float | None]:
        return {name: value if math.isfinite(value) else None for name, value in self._asdict().items()}


def values(rows: Sequence[MetricRow], name: str) -> list[float]:
    """One number a row; where it was not measured the last one holds, and before the first it is NaN."""
    found, last = [], math.nan
    for row in rows:
        value = row.get(name)
        last = float(value) if isinstance(value, int | float) else last
        found.append(last)
    return found


def course(rows: Sequence[MetricRow], axis: str) -> list[float]:
    """Where each row lies on one of AXES. Seconds leave out the start and the first step, which waits for SGLang."""
    match axis:
        case "steps":
            return values(rows, "step")
        case "updates":
            return list(accumulate(values(rows, "updates")))
        case "seconds":
            times = values(rows, "time_s")
            return [time - times[0] for time in times]
        case _:
            return values(rows, axis)


def comparable(rows: Sequence[MetricRow], axis: str) -> Sequence[MetricRow]:
    """Rows up to which `axis` means the same in runs of any length.

    The last _LEAD steps train on what was generated before: there accuracy rises and no token is spent, so a run that
    has just ended would look thriftier than one that goes on.
    """
    return rows[: max(1, len(rows) - _LEAD)] if axis == "generated_tokens" else rows


def accuracy(rows: Sequence[MetricRow]) -> list[float]:
    """Running mean of the share of correct responses among all sampled ones, filtered groups included."""
    return running_mean(values(rows, "accuracy_mean"), _WINDOW)


def value_at(xs: Sequence[float], ys: Sequence[float], x: float) -> float:
    """Linear between points whose xs do not fall, at equal xs the last one's value; beyond the ends the end's."""
    place = bisect_right(xs, x)
    if place == 0:
        return ys[0]
    if place == len(xs):
        return ys[-1]
    (x0, x1), (y0, y1) = xs[place - 1 : place + 1], ys[place - 1 : place + 1]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def budgets(runs: Iterable[Sequence[MetricRow]]) -> dict[str, float]:
    """On each axis the smallest total among the runs, as far as they are comparable: what all of them have spent."""
    runs = list(runs)
    return {axis: min(course(comparable(rows, axis), axis)[-1] for rows in runs) for axis in AXES}


def largest_fall(ys: Sequence[float]) -> float:
    """The deepest descent from a value to a later one; 0 where none follows that is lower."""
    highest, fall = -math.inf, 0.0
    for y in ys:
        highest = max(highest, y)
        fall = max(fall, highest - y)
    return fall


def run_figures(rows: Sequence[MetricRow], peak_rss_bytes: int, budget: Mapping[str, float]) -> dict[str, float]:
    """A run in numbers. `accuracy_at_…` are at equal budgets; durations leave out the first step."""
    curve = accuracy(rows)
    norms = values(rows, "grad_norm")
    figures = {f"accuracy_at_{axis}": value_at(course(rows, axis), curve, budget[axis]) for axis in AXES}
    figures |= {axis: course(rows, axis)[-1] for axis in AXES}
    for name in ("accuracy_mean", "entropy", "response_length_mean", "truncated_share"):
        figures[f"final_{name.removesuffix('_mean')}"] = _mean(values(rows, name)[-_WINDOW:])
    for name in ("step_s", "train_s"):
        figures[name] = _mean(values(rows, name)[1:] or values(rows, name))
    return figures | {
        "keep_rate": _mean(values(rows, "keep_rate")),
        "grad_norm": _mean(norms),
        "grad_norm_variation": statistics.pstdev(norms) / max(_mean(norms), 1e-12),
        "largest_fall": largest_fall(curve),
        "peak_rss_mib": peak_rss_bytes / MIB,
    }


def curves(rows: Sequence[MetricRow]) -> dict[str, list[float]]:
    """A run's course on each of AXES, and its accuracy there."""
    return {**{axis: course(rows, axis) for axis in AXES}, "accuracy": accuracy(rows)}


def spread(numbers: Sequence[float]) -> Spread:
    deviation = statistics.stdev(numbers) if len(numbers) > 1 else math.nan
    return Spread(_mean(numbers), deviation)


def over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, Spread]:
    """The spread of each figure over a variant's runs, of which there is at least one."""
    return {name: spread([run[name] for run in runs]) for name in runs[0]}


def band(
    runs: Sequence[Sequence[MetricRow]], axis: str, ys: Sequence[Sequence[float]], points: int = 100
) -> tuple[list[float], list[float], list[float], list[float]]:
    """x, mean, lowest and highest of several runs' `ys`, at `points` places where all are comparable on `axis`."""
    courses = [course(comparable(rows, axis), axis) for rows in runs]
    ys = [y[: len(xs)] for xs, y in zip(courses, ys, strict=True)]
    first, last = max(xs[0] for xs in courses), min(xs[-1] for xs in courses)
    places = [first + (last - first) * i / (points - 1) for i in range(points)]
    across = [[value_at(xs, y, x) for xs, y in zip(courses, ys, strict=True)] for x in places]
    return places, [_mean(column) for column in across], [min(c) for c in across], [max(c) for c in across]


def _mean(numbers: Sequence[float]) -> float:
    return math.fsum(numbers) / len(numbers)
