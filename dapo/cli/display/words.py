"""Events and numbers of a run in words."""

import math
from collections.abc import Mapping
from typing import Any

from dapo.contracts.events import Alert, Event, ServiceChanged

# Heading, metric, format.
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("accuracy", "accuracy_mean", "{:.3f}"),
    ("reward", "reward_mean", "{:+.3f}"),
    ("length", "response_length_mean", "{:.1f}"),
    ("entropy", "entropy", "{:.3f}"),
    ("keep rate", "keep_rate", "{:.2f}"),
    ("staleness", "staleness_mean", "{:.2f}"),
    ("version", "policy_version", "{:.0f}"),
    ("tokens/s", "generated_tokens_per_s", "{:,.0f}"),
)


def show(row: Mapping[str, Any], name: str, form: str) -> str:
    """A metric as text; a dash where it was not measured."""
    value = row.get(name)
    return form.format(value) if isinstance(value, int | float) and math.isfinite(value) else "–"


def duration(seconds: float) -> str:
    """h:mm:ss."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def evaluation_text(row: Mapping[str, Any]) -> str:
    """A finished evaluation of one set, in a line."""
    head = f"evaluation of step {row['step']}, {row['set']}: "
    if row["avg_at_k"] is None:
        return f"{head}all {row['failed_problems']} problems failed"
    k = row["samples"]
    average, passed = row["avg_at_k"], row["pass_at_k"][str(k)]
    parts = [f"avg@{k} {average['value']:.3f} [{average['low']:.3f}, {average['high']:.3f}]"]
    if k > 1:
        parts.append(f"pass@{k} {passed['value']:.3f}")
    if k > 1 and row["maj_at_k"] is not None:
        parts.append(f"maj@{k} {row['maj_at_k'][str(k)]['value']:.3f}")
    parts.append(
        f"{row['problems']} problems" + (f", {row['failed_problems']} failed" if row["failed_problems"] else "")
    )
    first, last = row["version_min"], row["version_max"]
    parts.append(f"version {first}" if first == last else f"versions {first}–{last}")
    return head + "  ".join(parts)


def warning_of(event: Event) -> str | None:
    """The line by which people are told of what they should know though the run goes on; None for other events."""
    match event:
        case Alert(severity=None):
            return f"alert: {event.message}"
        case ServiceChanged(state="ended", message=str(what)):
            return f"alert: {what}"
    return None
