"""What happens in a run, as watchers are told it: one frozen model for each kind of event.

On the wire (fields of the Redis stream, server-sent events, RunEvent of gRPC) an event is its `kind` and the JSON
object `data()`; its id is the one that the Redis stream gave it. `parse_event` is the way back.
"""

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

log = logging.getLogger(__name__)


WAITING, WAITING_OVER = "waiting", "waiting_over"
"""Causes of the alerts that the run stands still, and that it goes on."""
SHUT_DOWN = "the run service was shut down"
"""Message of a run that was stopped with its service: the next one goes on with it."""


class UnknownEvent(ValueError):
    """An event of a kind, or with fields, that this release does not know."""


class _Event(BaseModel):
    model_config = ConfigDict(frozen=True)

    def data(self) -> dict[str, Any]:
        """The JSON object that goes with the kind; fields that are None are left out."""
        return self.model_dump(exclude={"kind"}, exclude_none=True)

    @cached_property
    def text(self) -> str:
        """`data` as JSON, made once for all who are told."""
        return json.dumps(self.data())


class StateChanged(_Event):
    """The run's state is another."""

    kind: Literal["state"] = "state"
    state: str
    message: str = ""
    """Why it failed, was stopped, or ended before its last step."""


class StepFinished(_Event):
    """The learner has trained one more batch."""

    kind: Literal["step"] = "step"
    row: Mapping[str, Any]
    """As in metrics.jsonl: each metric by its name, None where it was not measured."""

    def data(self) -> dict[str, Any]:
        return dict(self.row)


class ServiceChanged(_Event):
    """A worker is in another state."""

    kind: Literal["service"] = "service"
    worker_id: str
    state: str
    role: str | None = None
    code: int | None = None
    """Exit code of one that ended; `message`, `log` (a path) and `log_end` tell of it, also where it fell silent."""
    message: str | None = None
    log: str | None = None
    log_end: str | None = None


ScaledBy = Literal["agents", "autoscale", "request"]
"""Agents that came or went, the run itself, or whoever asked for it."""


class Scaled(_Event):
    """The run has another number of workers of a role."""

    kind: Literal["scaled"] = "scaled"
    role: str
    before: int
    after: int
    reason: str
    by: ScaledBy

    @property
    def words(self) -> str:
        return f"{self.role}s {self.before} → {self.after}: {self.reason}"


class Alert(_Event):
    """Something that a person should know of, though the run goes on."""

    kind: Literal["alert"] = "alert"
    message: str
    cause: str | None = None
    """A name for programs, e.g. payload_unusable; on the wire it is the key "kind" of the data."""
    severity: Literal["notice"] | None = None
    """"notice": nothing went wrong, it only says how the run gets on. None: a warning."""
    worker_id: str | None = None
    reason: str | None = None
    """Why, where the message tells more."""
    pause_s: float | None = None
    """How long the worker is left out, to begin with."""
    group_id: str | None = None
    payload_key: str | None = None
    batch: int | None = None
    keep_rate: float | None = None

    def data(self) -> dict[str, Any]:
        found = super().data()
        return {"kind": found.pop("cause"), **found} if "cause" in found else found


class EvaluationProgress(_Event):
    """An evaluation goes on."""

    kind: Literal["evaluation"] = "evaluation"
    state: Literal["going on"] = "going on"
    step: int
    done: int
    """Of `problems`, over all sets."""
    problems: int


class EvaluationFinished(_Event):
    """One set was evaluated."""

    kind: Literal["evaluation"] = "evaluation"
    state: Literal["finished"] = "finished"
    row: Mapping[str, Any]
    """As in evaluations.jsonl."""

    def data(self) -> dict[str, Any]:
        return {"state": self.state, **self.row}


_Evaluation = Annotated[EvaluationProgress | EvaluationFinished, Field(discriminator="state")]
Event = Annotated[
    StateChanged | StepFinished | ServiceChanged | Scaled | Alert | _Evaluation,
    Field(discriminator="kind"),
]
Emit = Callable[[Event], Awaitable[None]]
"""Tells watchers of an event."""

_EVENT: TypeAdapter[Event] = TypeAdapter(Event)


def parse_event(kind: str, data: Mapping[str, Any]) -> Event:
    """Inverse of `event.kind` and `event.data()`. Raises UnknownEvent."""
    try:
        return _EVENT.validate_python(_fields(kind, data))
    except ValidationError as error:
        raise UnknownEvent(f"event of kind {kind!r}: {error}") from error


def _fields(kind: str, data: Mapping[str, Any]) -> dict[str, Any]:
    match kind:
        case "step":
            return {"kind": kind, "row": data}
        case "evaluation" if data.get("state") == "finished":
            row = {name: value for name, value in data.items() if name != "state"}
            return {"kind": kind, "state": "finished", "row": row}
        case "alert":
            return {**data, "kind": kind, "cause": data.get("kind")}
        case _:
            return {**data, "kind": kind}


def known_event(kind: str, data: Mapping[str, Any]) -> Event | None:
    """As `parse_event`; None for an event that this release does not know, of which the log has one line a kind."""
    try:
        return parse_event(kind, data)
    except UnknownEvent as error:
        _report_unknown(kind, str(error).replace("\n", " "))
        return None


_reported: set[str] = set()


def _report_unknown(kind: str, reason: str) -> None:
    if kind not in _reported:
        _reported.add(kind)
        log.warning("events are left out that this release does not know: %s", reason)
