"""What rank 0 measures of a step and of a checkpoint."""

import pytest

from dapo.telemetry.instruments import REGISTRY
from services.learner.instruments import observe_step

STEP = {
    "step_s": 4.0,
    "train_s": 2.5,
    "learner_wait_s": 1.0,
    "weight_sync_s": 0.5,
    "trained_tokens": 640.0,
    "trained_responses": 32.0,
    "lost_responses": 1.0,
    "updates": 2.0,
    "skipped_updates": 0.0,
}


def read(name: str) -> float:
    return REGISTRY.get_sample_value(f"dapo_learner_{name}") or 0.0


def test_a_step_is_added_up_and_one_that_is_not_published_has_no_weight_sync() -> None:
    names = ("tokens_total", "responses_total", "lost_responses_total", "updates_total", "skipped_updates_total")
    spans = ("step_seconds", "train_seconds", "wait_seconds", "weight_sync_seconds")
    before = {name: read(name) for name in (*names, *(f"{span}_{part}" for span in spans for part in ("sum", "count")))}
    observe_step(7, STEP, published=True)
    observe_step(8, {**STEP, "weight_sync_s": 0.0}, published=False)
    gained = {name: read(name) - value for name, value in before.items()}
    assert [gained[name] for name in names] == [1280, 64, 2, 4, 0]
    assert [gained[f"{span}_count"] for span in spans] == [2, 2, 2, 1]
    assert [gained[f"{span}_sum"] for span in spans] == [8.0, 5.0, 2.0, 0.5]
    assert read("step") == 8


@pytest.mark.parametrize("phase", ["join", "update"])
def test_failures_are_counted_from_zero(phase: str) -> None:
    assert REGISTRY.get_sample_value("dapo_learner_weight_failures_total", {"phase": phase}) is not None
