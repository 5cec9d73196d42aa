"""Rows as the flat numbers that trackers of experiments take."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from dapo.telemetry.metrics import METRICS
from services.orchestrator.tracking.sink import Row

_SHOWN = {metric.name: f"{metric.source}/{metric.name}" for metric in METRICS if metric.name != "step"}


def step_values(row: Row) -> dict[str, float]:
    """The metrics that were measured, as `learner/loss`, and the ledger, as `ledger/kept`."""
    measured = {_SHOWN[name]: value for name, value in row.items() if name in _SHOWN}
    ledger = {f"ledger/{state}": count for state, count in (row.get("ledger") or {}).items()}
    return {name: float(value) for name, value in (measured | ledger).items() if _is_number(value)}


def evaluation_values(row: Row) -> dict[str, float]:
    """Measures as `evaluation/SET/avg_at_k`, their intervals as `evaluation/SET/avg_at_k_low`."""
    measures = {name: value for name, value in row.items() if name not in ("set", "step")}
    return {f"evaluation/{row['set']}/{name}": value for name, value in _numbers(measures, "")}


def _numbers(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """No name is the beginning of another's path: MLflow keeps each as a file."""
    for name, value in tree.items():
        path = prefix if name == "value" and prefix else f"{prefix}_{name}" if prefix else name
        if isinstance(value, Mapping):
            yield from _numbers(value, path)
        elif _is_number(value):
            yield path, float(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
