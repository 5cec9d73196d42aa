"""Early stopping (Prechelt, 1998): a run ends once evaluations say that it has come as far as it should."""

from collections.abc import Mapping, Sequence
from typing import Any

from dapo.spec.tree.evaluation import EarlyStoppingSpec


def reason_to_stop(rule: EarlyStoppingSpec, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the run should end after these evaluations (rows of evaluations.jsonl, oldest first); None if it should not.

    Where several evaluations give a reason, the first of them does. Those in which every problem failed do not count.
    """
    best: tuple[float, int] | None = None
    waited = 0
    for row in rows:
        if row["set"] != rule.set or row["avg_at_k"] is None:
            continue
        value, step = row["avg_at_k"]["value"], row["step"]
        if rule.threshold is not None and value >= rule.threshold:
            return (
                f"{rule.set} has reached avg@{row['samples']} = {value:.4f} at step {step} "
                f"(evaluation.early_stopping.threshold = {rule.threshold:g})"
            )
        if best is None or value > best[0] + rule.min_delta:
            best, waited = (value, step), 0
            continue
        waited += 1
        if rule.patience is not None and waited >= rule.patience:
            return (
                f"{rule.set} has not risen above avg@{row['samples']} = {best[0]:.4f} of step {best[1]} up to step "
                f"{step} (evaluation.early_stopping.patience = {rule.patience})"
            )
    return None
