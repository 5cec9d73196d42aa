"""What is known of a run while it is watched: from its events, and from what its service says now and then. Pure."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from dapo.cli.display.waiting import Pace, Waiting
from dapo.cli.display.words import evaluation_text, warning_of
from dapo.client import Run, RunEvent
from dapo.contracts.events import (
    Alert,
    EvaluationFinished,
    Scaled,
    ServiceChanged,
    StateChanged,
    StepFinished,
    known_event,
)
from dapo.terminal import visible

CURVES = (("accuracy", "accuracy_mean", "{:.3f}"), ("reward", "reward_mean", "{:+.3f}"))
"""Heading, metric, format."""


class Telling(NamedTuple):
    """A line that people are told once."""

    text: str
    style: str
    at_s: float
    """When it happened, in seconds since 1970."""


def time_of(event_id: str) -> float:
    """When an event was written, in seconds since 1970: its id begins with the milliseconds."""
    return int(event_id.partition("-")[0]) / 1000


class RunPicture:
    """`total`: its steps; 0 where it only evaluates."""

    def __init__(self, run_id: str, total: int) -> None:
        self.run_id = run_id
        self.total = total
        self.state = ""
        self.message = ""
        self.queue_position: int | None = None
        self.row: Mapping[str, Any] = {}
        """Of the newest step."""
        self.pipeline: Mapping[str, Any] = {}
        """As GET /v1/runs/{id}/pipeline has it; empty where nobody has asked."""
        self._curves: dict[str, dict[int, float]] = {name: {} for _, name, _ in CURVES}
        self._waiting = Waiting(total)
        self._pace = Pace()
        self._began_s: float | None = None
        self._ended_s: float | None = None

    def event(self, sent: RunEvent) -> Telling | None:
        """Take one in; returns what people should be told of it."""
        event, at_s = known_event(sent.kind, sent.data), time_of(sent.id)
        if event is None:
            return None
        if not isinstance(event, StepFinished):
            self._waiting.update(event)
        if (warning := warning_of(event)) is not None:
            return Telling(visible(warning), "yellow", at_s)
        match event:
            case Alert(message=notice):
                return Telling(visible(notice), "dim", at_s)
            case Scaled():
                return Telling(visible(event.words), "dim", at_s)
            case EvaluationFinished():
                return Telling(visible(evaluation_text(event.row)), "green", at_s)
            case StepFinished():
                self.add_row(event.row, at_s)
            case StateChanged():
                self._change(event, at_s)
        return None

    def _change(self, event: StateChanged, at_s: float) -> None:
        self.state, self.message = event.state, event.message
        if event.state != "queued":
            self.queue_position = None
        if event.state in ("queued", "starting"):
            self._began_s, self._ended_s = at_s, None
        elif event.state not in ("running", "draining"):
            self._ended_s = at_s

    def add_row(self, row: Mapping[str, Any], at_s: float | None) -> None:
        """The newest step, as in metrics.jsonl, that ended then by any clock; None: not known."""
        self.row = row
        if at_s is not None:
            self._pace.update(row["step"], at_s)
        self._waiting.update(StepFinished(row=row))
        for name, curve in self._curves.items():
            value = row.get(name)
            if isinstance(value, int | float) and math.isfinite(value):
                curve[row["step"]] = value

    def snapshot(self, run: Run, pipeline: Mapping[str, Any]) -> None:
        """What the service says of it; an empty `pipeline` where it was not asked for that."""
        if not self.state:  # No event has told so far.
            self._waiting.update(StateChanged(state=run["state"]))
            for one in pipeline.get("generators", ()):
                self._waiting.update(ServiceChanged(worker_id=one["id"], role="generator", state=one["state"]))
        self.state, self.message = run["state"], run["message"]
        self.queue_position = run.get("queue_position")
        self.total = self._waiting.steps = run["steps_total"]
        if pipeline:
            self.pipeline = pipeline

    @property
    def step(self) -> int:
        return int(self.row.get("step", 0))

    @property
    def awaited(self) -> str:
        """What the run waits for, harmless to a terminal; empty while it trains."""
        if self.state == "queued":
            place = f"{self.queue_position} in the queue" if self.queue_position else "in the queue"
            return visible(f"{place}: {self.message}" if self.message else place)
        return visible(self._waiting.text)

    def curve(self, name: str) -> list[float]:
        """A metric's values by step."""
        return list(self._curves[name].values())

    def left_s(self) -> float | None:
        """None where nobody knows: before the second step, and while the run stands still."""
        return None if self._waiting.standstill or self._ended_s else self._pace.left_s(self.total)

    def elapsed_s(self, now_s: float) -> float:
        """Since the run was last started, until now or its end; as of its newest step where its events are unknown."""
        if self._began_s is None:
            return self.row.get("time_s") or 0.0
        return (self._ended_s or now_s) - self._began_s
