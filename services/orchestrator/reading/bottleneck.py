"""Which stage holds a run up, read off the last steps and off what stands on the way. Pure.

A step of the learner has three parts: it waits for its batch, trains, and sends the weights. The longest names the
stage; a learner that waits is held up by generation, or by grading where most groups on their way are only ungraded.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

STEPS = 10
"""Newest steps that count."""

Stage = Literal["generation", "grading", "training", "weights"]


class Bottleneck(NamedTuple):
    stage: Stage
    share: float
    """Of the step's time that the stage takes, or of the groups on their way that wait for grades; in [0, 1]."""
    text: str
    """The number in a sentence."""


def bottleneck(rows: Sequence[Mapping[str, float | None]], issued: int, ungraded: int) -> Bottleneck | None:
    """`rows` of metrics.jsonl, oldest first; `issued` groups have responses to come, `ungraded` ones all of them, and
    grades to come. None before a step was measured."""
    found = [parts for row in rows[-STEPS:] if (parts := _parts(row)) is not None]
    if not found:
        return None
    total = math.fsum(step_s for step_s, *_ in found)
    wait, train, sync = (math.fsum(one[part] for one in found) / total for part in (1, 2, 3))
    if train >= max(wait, sync):
        return Bottleneck("training", train, f"training takes {100 * train:.0f} % of a step")
    if sync > wait:
        return Bottleneck("weights", sync, f"sending weights takes {100 * sync:.0f} % of a step")
    if ungraded > issued:
        there = issued + ungraded
        return Bottleneck("grading", ungraded / there, f"{ungraded} of {there} groups on their way wait for grades")
    return Bottleneck("generation", wait, f"the learner waits for its batch {100 * wait:.0f} % of a step")


def _parts(row: Mapping[str, float | None]) -> tuple[float, float, float, float] | None:
    """Of a step, in seconds: all of it, waiting, training, sending weights. None where it was not measured."""
    step_s, wait_s, train_s = row.get("step_s"), row.get("learner_wait_s"), row.get("train_s")
    if not step_s or wait_s is None or train_s is None:
        return None
    parts = (wait_s, train_s, row.get("weight_sync_s") or 0.0)
    if not all(map(math.isfinite, (step_s, *parts))):
        return None
    # What is measured by several clocks may add up to more than the step.
    return (max(step_s, math.fsum(parts)), *parts)
