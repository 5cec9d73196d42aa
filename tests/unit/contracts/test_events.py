"""Events as watchers are sent them: the wire form of each kind, and the way back."""

import logging

import pytest
from pydantic import ValidationError

from dapo.contracts import events
from dapo.contracts.events import (
    Alert,
    EvaluationFinished,
    EvaluationProgress,
    Event,
    Scaled,
    ServiceChanged,
    StateChanged,
    StepFinished,
    UnknownEvent,
    known_event,
    parse_event,
)

WIRE: list[tuple[Event, str, dict]] = [
    (StateChanged(state="running"), "state", {"state": "running", "message": ""}),
    (StateChanged(state="failed", message="no"), "state", {"state": "failed", "message": "no"}),
    (StepFinished(row={"step": 1, "loss": None}), "step", {"step": 1, "loss": None}),
    (
        Scaled(role="generator", before=1, after=2, reason="asked for", by="request"),
        "scaled",
        {"role": "generator", "before": 1, "after": 2, "reason": "asked for", "by": "request"},
    ),
    (
        ServiceChanged(worker_id="generator-0", role="generator", state="ready"),
        "service",
        {"worker_id": "generator-0", "role": "generator", "state": "ready"},
    ),
    (
        ServiceChanged(worker_id="learner-0", state="failed", code=0, message="m", log="/l", log_end=""),
        "service",
        {"worker_id": "learner-0", "state": "failed", "code": 0, "message": "m", "log": "/l", "log_end": ""},
    ),
    (Alert(message="m"), "alert", {"message": "m"}),
    (Alert(message="m", severity="notice"), "alert", {"message": "m", "severity": "notice"}),
    (Alert(message="m", keep_rate=0.0), "alert", {"message": "m", "keep_rate": 0.0}),
    (Alert(message="m", group_id="g"), "alert", {"message": "m", "group_id": "g"}),
    (Alert(message="m", worker_id="w"), "alert", {"message": "m", "worker_id": "w"}),
    (
        Alert(message="m", cause="payload_unusable", payload_key="p", batch=0),
        "alert",
        {"kind": "payload_unusable", "message": "m", "payload_key": "p", "batch": 0},
    ),
    (
        Alert(message="m", cause="generator_quarantined", worker_id="generator-0", reason="r", pause_s=1.0),
        "alert",
        {"kind": "generator_quarantined", "message": "m", "worker_id": "generator-0", "reason": "r", "pause_s": 1.0},
    ),
    (
        EvaluationProgress(step=2, done=3, problems=4),
        "evaluation",
        {"state": "going on", "step": 2, "done": 3, "problems": 4},
    ),
    (
        EvaluationFinished(row={"step": 2, "set": "s", "avg_at_k": None}),
        "evaluation",
        {"state": "finished", "step": 2, "set": "s", "avg_at_k": None},
    ),
]


@pytest.mark.parametrize(("event", "kind", "data"), WIRE)
def test_the_wire_form_of_each_kind_and_the_way_back(event: Event, kind: str, data: dict) -> None:
    assert (event.kind, event.data()) == (kind, data)
    assert parse_event(kind, data) == event


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        StateChanged(state="running").state = "failed"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("kind", "data"),
    [("rollout", {"turn": 1}), ("state", {}), ("alert", {"kind": "state"}), ("evaluation", {"state": "put off"})],
)
def test_what_this_release_does_not_know_is_named(kind: str, data: dict) -> None:
    with pytest.raises(UnknownEvent, match=f"event of kind '{kind}'"):
        parse_event(kind, data)


def test_what_is_added_to_a_known_kind_does_no_harm() -> None:
    assert parse_event("state", {"state": "running", "since": 1}) == StateChanged(state="running")


def test_unknown_events_are_left_out_with_one_log_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(events, "_reported", set())
    with caplog.at_level(logging.WARNING):
        assert [known_event("rollout", {"turn": turn}) for turn in range(3)] == [None] * 3
    assert len(caplog.records) == 1
    assert "'rollout'" in caplog.text
    assert "\n" not in caplog.records[0].getMessage()
