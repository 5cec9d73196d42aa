"""When evaluations say that a run has come as far as it should."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from dapo.algo.early_stopping import reason_to_stop
from dapo.spec.tree.evaluation import EarlyStoppingSpec

AVERAGES = st.lists(st.none() | st.integers(0, 20).map(lambda twentieths: twentieths / 20), max_size=20)


def rows_of(averages: list[float | None], name: str = "exam") -> list[dict[str, Any]]:
    return [
        {"set": name, "step": 10 * at, "samples": 4, "avg_at_k": None if value is None else {"value": value}}
        for at, value in enumerate(averages)
    ]


@given(AVERAGES)
def test_without_a_set_a_run_goes_on(averages: list[float | None]) -> None:
    assert reason_to_stop(EarlyStoppingSpec(), rows_of(averages)) is None


@given(AVERAGES, st.integers(1, 20), st.none() | st.integers(1, 4), st.integers(0, 3))
def test_a_run_ends_at_the_first_evaluation_that_says_so(
    averages: list[float | None], threshold: int, patience: int | None, min_delta: int
) -> None:
    rule = EarlyStoppingSpec(set="exam", threshold=threshold / 20, patience=patience, min_delta=min_delta / 20)
    rows = rows_of(averages)
    values = [value for value in averages if value is not None]

    def says_so(count: int) -> bool:
        """After so many evaluations, told from their definition: the threshold is reached, or the last `patience` were
        all no improvement on what had come before them."""
        found = values[:count]
        improvements, best = [], None
        for at, value in enumerate(found):
            if best is None or value > best + rule.min_delta:
                improvements.append(at)
                best = value
        stands = patience is not None and bool(improvements) and count - 1 - improvements[-1] >= patience
        return bool(found) and (found[-1] >= threshold / 20 or stands)

    reason = reason_to_stop(rule, rows)
    assert (reason is not None) == any(says_so(count) for count in range(1, len(values) + 1))
    # Other sets, and evaluations that come later, change nothing.
    assert reason_to_stop(rule, [*rows_of([1.0, 0.0, 0.0, 0.0, 0.0], "other"), *rows]) == reason
    if reason is not None:
        assert reason_to_stop(rule, [*rows, *rows_of([1.0])]) == reason


def test_the_reason_names_what_it_rests_on() -> None:
    rule = EarlyStoppingSpec(set="exam", threshold=0.9, patience=2)
    assert reason_to_stop(rule, rows_of([0.25, 0.95])) == (
        "exam has reached avg@4 = 0.9500 at step 10 (evaluation.early_stopping.threshold = 0.9)"
    )
    assert reason_to_stop(rule, rows_of([0.25, 0.5, None, 0.5, 0.25])) == (
        "exam has not risen above avg@4 = 0.5000 of step 10 up to step 40 (evaluation.early_stopping.patience = 2)"
    )
