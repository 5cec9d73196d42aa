"""What a verifier measures; docs/metrics.md says what each means."""

import time
from collections.abc import Iterable

from dapo.contracts.verdicts import GRADER_FAILURES
from dapo.telemetry import instruments
from services.verifier.graders import Verdict

UNKNOWN = "unknown"
"""Label of graders that there are not: the data may name any."""
GRADED = instruments.counter("dapo_verifier_graded_total")
GRADING_SECONDS = instruments.histogram("dapo_verifier_grading_seconds")
FAILURES = instruments.counter("dapo_verifier_failures_total")
WAIT_SECONDS = instruments.histogram("dapo_verifier_wait_seconds")
BATCHES_RUNNING = instruments.gauge("dapo_verifier_batches_running")


def count_graded(verdicts: Iterable[tuple[str, Verdict]]) -> None:
    """(grader name, verdict) of responses that are done with."""
    for grader, verdict in verdicts:
        word = "failed" if verdict.failed else "correct" if verdict.correct else "wrong"
        GRADED.labels(_label(grader, verdict), word).inc()


def count_failures_from_zero(graders: Iterable[str]) -> None:
    """Of graders that a spec names: increase() does not see the first failure of a series that begins with it."""
    for grader in graders:
        for reason in sorted(GRADER_FAILURES - {"unknown_grader"}):
            FAILURES.labels(grader, reason)


def count_failures(verdicts: Iterable[tuple[str, Verdict]]) -> None:
    """(grader name, verdict) of each grading, also of those that are tried again."""
    for grader, verdict in verdicts:
        if verdict.failed:
            FAILURES.labels(_label(grader, verdict), verdict.reason).inc()


def observe_wait(message_ids: Iterable[str]) -> None:
    """Ids of a stream begin with the milliseconds at which the server has taken the entry."""
    now_s = time.time()
    for message_id in message_ids:
        WAIT_SECONDS.observe(max(0.0, now_s - int(message_id.partition("-")[0]) / 1e3))


def _label(grader: str, verdict: Verdict) -> str:
    return UNKNOWN if verdict.reason == "unknown_grader" else grader
