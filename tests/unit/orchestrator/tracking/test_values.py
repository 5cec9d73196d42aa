"""Rows as flat numbers."""

import math

from services.orchestrator.tracking.values import evaluation_values, step_values


def test_a_step_has_its_measured_metrics_by_who_measures_them_and_the_ledger() -> None:
    row = {
        "step": 3,
        "loss": 0.5,
        "entropy": None,
        "accuracy_mean": 1,
        "grad_norm": math.nan,
        "fingerprint": "ab",
        "evaluations": [{"set": "exam"}],
        "ledger": {"kept": 4},
    }
    assert step_values(row) == {"learner/loss": 0.5, "orchestrator/accuracy_mean": 1.0, "ledger/kept": 4.0}


def test_an_evaluation_has_its_measures_by_set_with_their_intervals() -> None:
    row = {
        "set": "exam",
        "step": 3,
        "avg_at_k": {"value": 0.25, "low": 0.0, "high": 0.5},
        "maj_at_k": None,
        "pass_at_k": {"1": {"value": 0.25, "low": 0.0, "high": 0.5}},
        "ended": True,
        "problems": 6,
    }
    assert evaluation_values(row) == {
        "evaluation/exam/avg_at_k": 0.25,
        "evaluation/exam/avg_at_k_low": 0.0,
        "evaluation/exam/avg_at_k_high": 0.5,
        "evaluation/exam/pass_at_k_1": 0.25,
        "evaluation/exam/pass_at_k_1_low": 0.0,
        "evaluation/exam/pass_at_k_1_high": 0.5,
        "evaluation/exam/problems": 6.0,
    }
