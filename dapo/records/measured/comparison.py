"""Several runs side by side: where they stood at the same step and at their ends, evaluations, specs. Pure."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

from dapo.records.evaluations import Point, points
from dapo.records.measured.series import Series

AVERAGED_STEPS = 5
"""Newest steps of which a measure of training is the mean."""
METRICS = ("accuracy_mean", "reward_mean", "generated_tokens_per_s", "time_s")
"""What is compared of the training."""

Verdict = Literal["higher", "lower", "within noise"]
When = Literal["at the same step", "best", "last"]


class RunFacts(NamedTuple):
    """What is known of a run."""

    id: str
    state: str
    steps_total: int
    series: Series
    """With `METRICS`."""
    evaluations: Sequence[Mapping[str, Any]]
    """Lines of evaluations.jsonl, oldest first."""
    spec: Mapping[str, Any]
    """Its tree, every default written out."""


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Standing(_View):
    """A run at a step."""

    step: int
    accuracy: float | None
    """Mean of the last five steps, as are `reward` and `tokens_per_s`."""
    reward: float | None
    tokens_per_s: float | None
    """Generated, of all generators."""
    time_s: float | None
    """Since the run's services were launched."""


class RunColumn(_View):
    id: str
    state: str
    steps_total: int
    common: Standing | None
    """At the newest step that all runs have finished; None where one has finished none."""
    last: Standing | None


class EvaluationPoint(_View):
    """avg@k of a run with its 95 % interval."""

    run: str
    step: int
    value: float
    low: float
    high: float
    verdict: Verdict | None
    """Against the first run that has the evaluation; "within noise": the intervals overlap. None for that run."""


class EvaluationRow(_View):
    set: str
    """E.g. `aime avg@32`."""
    when: When
    points: list[EvaluationPoint]


class SpecDifference(_View):
    field: str
    values: list[Any]
    """One for each run; null also where the spec has no such field."""


class Comparison(_View):
    common_step: int
    """The newest step that all runs have finished; 0: there is none."""
    runs: list[RunColumn]
    evaluations: list[EvaluationRow]
    differences: list[SpecDifference]


def compare(runs: Sequence[RunFacts]) -> Comparison:
    """In the order given; evaluations are judged against the first."""
    common = min(run.series.last_step for run in runs)
    return Comparison(
        common_step=common,
        runs=[
            RunColumn(
                id=run.id,
                state=run.state,
                steps_total=run.steps_total,
                common=standing(run.series, common),
                last=standing(run.series, run.series.last_step),
            )
            for run in runs
        ],
        evaluations=list(_evaluations(runs)),
        differences=list(spec_differences([run.spec for run in runs])),
    )


def standing(series: Series, step: int) -> Standing | None:
    """At that step; None where there is none so early."""
    end = sum(one <= step for one in series.step)
    if not end:
        return None
    mean = {name: _mean(series.columns.get(name, [])[max(0, end - AVERAGED_STEPS) : end]) for name in METRICS}
    times = series.columns.get("time_s", [])[:end]
    return Standing(
        step=series.step[end - 1],
        accuracy=mean["accuracy_mean"],
        reward=mean["reward_mean"],
        tokens_per_s=mean["generated_tokens_per_s"],
        time_s=times[-1] if times else None,
    )


def _mean(values: Sequence[float | None]) -> float | None:
    found = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(found) / len(found) if found else None


def judge(first: Point, other: Point) -> Verdict:
    """Of two values with 95 % intervals. Intervals that overlap are called noise: the test is on the careful side, as
    intervals of values that differ at 95 % may still overlap a little."""
    if other.low <= first.high and first.low <= other.high:
        return "within noise"
    return "higher" if other.value > first.value else "lower"


def _evaluations(runs: Sequence[RunFacts]) -> Iterator[EvaluationRow]:
    found = {run.id: points(run.evaluations) for run in runs}
    for name in dict.fromkeys(name for sets in found.values() for name in sets):
        curves = {run: sets[name] for run, sets in found.items() if name in sets}
        steps = set.intersection(*({point.step for point in curve} for curve in curves.values()))
        if steps and len(curves) > 1:
            at = max(steps)
            same = {run: next(point for point in curve if point.step == at) for run, curve in curves.items()}
            yield _row(name, "at the same step", same)
        # Of equal ones the first, which took the least training.
        yield _row(name, "best", {run: max(curve, key=lambda point: point.value) for run, curve in curves.items()})
        yield _row(name, "last", {run: curve[-1] for run, curve in curves.items()})


def _row(name: str, when: When, found: Mapping[str, Point]) -> EvaluationRow:
    first = next(iter(found.values()))
    return EvaluationRow(
        set=name,
        when=when,
        points=[
            EvaluationPoint(run=run, **point._asdict(), verdict=None if point is first else judge(first, point))
            for run, point in found.items()
        ],
    )


def spec_differences(specs: Sequence[Mapping[str, Any]]) -> Iterator[SpecDifference]:
    """Fields that are not the same in all, but for the name, in the order of the specs."""
    flat = [dict(_leaves(spec, "")) for spec in specs]
    for field in dict.fromkeys(field for one in flat for field in one):
        values = [one.get(field) for one in flat]
        if field != "name" and len({json.dumps(value, sort_keys=True) for value in values}) > 1:
            yield SpecDifference(field=field, values=values)


def _leaves(tree: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value
