"""What rank 0 of a learner measures; docs/metrics.md says what each means."""

from collections.abc import Mapping

from dapo.telemetry import instruments

STEP = instruments.gauge("dapo_learner_step")
STEP_SECONDS = instruments.histogram("dapo_learner_step_seconds")
TRAIN_SECONDS = instruments.histogram("dapo_learner_train_seconds")
WAIT_SECONDS = instruments.histogram("dapo_learner_wait_seconds")
WEIGHT_SYNC_SECONDS = instruments.histogram("dapo_learner_weight_sync_seconds")
WEIGHT_FAILURES = instruments.counter("dapo_learner_weight_failures_total", "join", "update")
WEIGHT_MEMBERS = instruments.gauge("dapo_learner_weight_members")
TOKENS = instruments.counter("dapo_learner_tokens_total")
RESPONSES = instruments.counter("dapo_learner_responses_total")
LOST_RESPONSES = instruments.counter("dapo_learner_lost_responses_total")
UPDATES = instruments.counter("dapo_learner_updates_total")
SKIPPED_UPDATES = instruments.counter("dapo_learner_skipped_updates_total")
CHECKPOINT_SECONDS = instruments.histogram("dapo_learner_checkpoint_seconds")

_SPANS = {"step_s": STEP_SECONDS, "train_s": TRAIN_SECONDS, "learner_wait_s": WAIT_SECONDS}
_SUMS = {
    "trained_tokens": TOKENS,
    "trained_responses": RESPONSES,
    "lost_responses": LOST_RESPONSES,
    "updates": UPDATES,
    "skipped_updates": SKIPPED_UPDATES,
}
"""By metric of a step (dapo/telemetry/metrics.py), what adds it up."""


def observe_step(step: int, metrics: Mapping[str, float], *, published: bool) -> None:
    """`published`: its weights were sent."""
    STEP.set(step)
    for name, span in _SPANS.items():
        span.observe(metrics[name])
    for name, total in _SUMS.items():
        total.inc(metrics[name])
    if published:
        WEIGHT_SYNC_SECONDS.observe(metrics["weight_sync_s"])
