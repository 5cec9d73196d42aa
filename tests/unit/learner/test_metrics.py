"""Quantiles from a histogram, and the explained variance."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from dapo.telemetry.metrics import BY_NAME  # noqa: E402
from services.learner.step.metrics import (  # noqa: E402
    MetricSums,
    _lag_metrics,
    _policy_metrics,
    explained_variance,
    lag_sums,
    mismatch_sums,
    ratio_histogram,
    ratio_quantile,
    update_metrics,
    value_sums,
)
from services.learner.step.payloads import TrainingSample  # noqa: E402


@given(st.lists(st.floats(-4, 4), min_size=1, max_size=200), st.sampled_from([0.01, 0.5, 0.99]))
def test_ratio_quantiles_are_right_to_half_a_percent(log_ratios: list[float], share: float) -> None:
    histogram = ratio_histogram(torch.tensor(log_ratios, dtype=torch.float64))
    assert histogram.sum() == len(log_ratios)
    exact = sorted(log_ratios)[max(0, math.ceil(share * len(log_ratios) - 1e-9) - 1)]
    found = math.log(ratio_quantile(histogram, share))
    assert found == pytest.approx(min(3.0, max(-3.0, exact)), abs=0.0026)


@given(st.integers(0, 10_000))
def test_the_parts_of_a_batch_add_up(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    old, other = torch.randn(2, 6, 5, generator=generator, dtype=torch.float64)
    mask = torch.rand(6, 5, generator=generator) < 0.7
    for measure in (mismatch_sums, value_sums):
        whole = measure(old, other, mask)
        parts = [measure(old[rows], other[rows], mask[rows]) for rows in (slice(0, 2), slice(2, 6))]
        for name, value in whole.items():
            assert float(value) == pytest.approx(float(parts[0][name] + parts[1][name]))


def test_explained_variance_is_1_for_a_perfect_critic_and_0_for_a_constant_one() -> None:
    returns, mask = torch.tensor([[1.0, -1.0, 1.0, 5.0]]), torch.tensor([[True, True, True, False]])

    def of(values: list[float]) -> float:
        sums = value_sums(torch.tensor([values]), returns, mask)
        return explained_variance({name: float(value) for name, value in sums.items()})

    assert of([1.0, -1.0, 1.0, 0.0]) == pytest.approx(1)
    assert of([0.3, 0.3, 0.3, 0.0]) == pytest.approx(0)
    assert of([-1.0, 1.0, -1.0, 0.0]) < 0


def test_tokens_are_told_apart_by_the_versions_that_sampled_them() -> None:
    """A response may be begun by one version and ended by another; shares are of tokens, not of responses."""
    metric_sums = MetricSums()
    metric_sums.add(lag_sums([make_sample((5, 6), (7, 2)), make_sample((7, 8))], step=7))
    metric_sums.add(lag_sums([make_sample((3, 4))], step=7))
    assert _lag_metrics(metric_sums._sums) == {
        "token_lag_mean": pytest.approx((6 * 2 + 4 * 4) / 20),
        "token_lag_0_share": 0.5,
        "token_lag_1_share": 0.0,
        "token_lag_more_share": 0.5,
    }
    assert _lag_metrics(lag_sums([make_sample()], step=7)) == {}


def make_sample(*versions: tuple[int, int]) -> TrainingSample:
    nothing = np.zeros(0, dtype=np.float32)
    return TrainingSample(np.zeros(1, np.int32), 1, np.zeros(0, bool), nothing, nothing, 0.0, versions)


def test_metric_sums_add_up_what_lies_on_different_devices() -> None:
    """On a GPU, preparation measures on the CPU and updates on the GPU."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    from services.learner.step.metrics import flattened

    with FakeTensorMode():
        values = {"here": torch.zeros(2), "there": torch.empty((), device="cuda")}
        assert flattened(values, ["here", "there"]).device.type == "cpu"


def test_a_histogram_counts_only_finite_ratios() -> None:
    assert ratio_histogram(torch.tensor([0.0, float("nan"), float("inf")])).sum() == 1


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_norms_are_means_of_the_updates_that_were_applied_and_the_others_are_counted(bad: float) -> None:
    assert update_metrics([1.0, bad, 3.0], [bad, bad, 5.0]) == {
        "updates": 2,
        "grad_norm": 2,
        "value_grad_norm": 5,
        "skipped_updates": 3,
    }


def test_a_network_that_was_not_updated_has_no_norm() -> None:
    assert update_metrics([1.0], None) == {"updates": 1, "grad_norm": 1, "skipped_updates": 0}
    resting = update_metrics([], [2.0])
    assert (resting["updates"], resting["grad_norm"], resting["value_grad_norm"]) == (0, 0, 2)


def test_the_share_of_dual_clipped_tokens_is_there_where_the_clip_is() -> None:
    names = ("entropy", "probability", "clipped_low", "clipped_high", "clipped_high_probability")
    sums = {"tokens": 8.0, **dict.fromkeys(names, 0.0)}
    assert _policy_metrics({**sums, "dual_clipped": 2.0})["dual_clip_fraction"] == 0.25
    assert "dual_clip_fraction" not in _policy_metrics(sums)
    assert BY_NAME["dual_clip_fraction"].source == "learner"
