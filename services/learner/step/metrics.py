"""What the learner measures of a step: sums over tokens that add up over micro-batches and ranks, and their means."""

import math
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from dapo.v1 import messages_pb2 as pb
from services.learner.loss.gradient_noise import gradient_noise_scale
from services.learner.loss.policy import LOG_RATIO_BOUND, Objective, TokenInputs, kl_k3
from services.learner.step.payloads import TrainingSample

Sums = Mapping[str, Tensor]

_HISTOGRAM_BOUND = 3.0
_HISTOGRAM_BINS = 1201
"""Log-ratios in [−3, 3] in steps of 0.005; what lies outside counts in the outermost bins."""


class MetricSums:
    """Sums (scalars or vectors) and maxima by name. Every rank adds under the same names."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._maxima: dict[str, Tensor] = {}

    def add(self, sums: Sums) -> None:
        for name, value in sums.items():
            before = self._sums.get(name)
            self._sums[name] = value.double() if before is None else before + value

    def add_maxima(self, values: Sums) -> None:
        for name, value in values.items():
            before = self._maxima.get(name)
            self._maxima[name] = value.double() if before is None else torch.maximum(before, value.double())

    def over_ranks(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Sums and maxima over all ranks, which call it together."""
        maxima = _reduced(self._maxima, dist.ReduceOp.MAX)
        return _reduced(self._sums, dist.ReduceOp.SUM), {name: float(value) for name, value in maxima.items()}


def _reduced(values: Sums, operation: dist.ReduceOp) -> dict[str, Tensor]:
    names = sorted(values)
    if not names:
        return {}
    flat = flattened(values, names)
    dist.all_reduce(flat, op=operation)
    parts = flat.split([values[name].numel() for name in names])
    return {name: part.reshape(values[name].shape) for name, part in zip(names, parts, strict=True)}


def flattened(values: Sums, names: Sequence[str]) -> Tensor:
    """All values, one after the other, on the CPU: preparation measures there, updates on their device."""
    return torch.cat([values[name].reshape(-1).cpu() for name in names])


@torch.no_grad()
def update_sums(inputs: TokenInputs, objective: Objective) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Sums and maxima over the masked tokens of one update; divide by `tokens` after adding up everywhere.

    A token counts as clipped where the clip takes its gradient away: A > 0 above, A < 0 below, and as `dual_clipped`
    A < 0 above the dual clip's bound, where there is one. `probability` sums the policy's own of the sampled tokens
    (DAPO, figure 7d), `clipped_high_probability` of the up-clipped ones (figure 3a).
    """
    mask = inputs.mask
    log_ratio = (inputs.current - inputs.proximal).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    ratio = log_ratio.exp()
    clipped_high = mask & (inputs.advantages > 0) & (ratio > 1 + objective.clip_high)
    probability = inputs.current.exp().masked_fill(~mask, 0)
    sums = {
        "tokens": mask.sum(),
        "entropy": inputs.entropy.masked_fill(~mask, 0).sum(),
        "probability": probability.sum(),
        "clipped_low": (mask & (inputs.advantages < 0) & (ratio < 1 - objective.clip_low)).sum(),
        "clipped_high": clipped_high.sum(),
        "clipped_high_probability": probability.masked_fill(~clipped_high, 0).sum(),
        "ratio_histogram": ratio_histogram(log_ratio[mask]),
    }
    if objective.dual_clip is not None:
        sums["dual_clipped"] = (mask & (inputs.advantages < 0) & (ratio > objective.dual_clip)).sum()
    if inputs.reference is not None:
        sums["kl_reference"] = kl_k3(inputs.reference - inputs.current).masked_fill(~mask, 0).sum()
    return sums, {"clipped_high_probability_max": probability.masked_fill(~clipped_high, 0).amax()}


@torch.no_grad()
def mismatch_sums(old: Tensor, behaviour: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """How far the learner's π_old, before any update, is from what sampled: sums over the masked tokens.

    `mismatch_kl` sums the k3 estimate of KL(μ ‖ π_old); `weight` and `weight_squared` sum π_old/μ and its square, from
    which the effective sample size is (Σw)² / (n Σw²), 1 when the two policies agree.
    """
    difference = (old - behaviour).masked_fill(~mask, 0)
    weights = difference.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp().masked_fill(~mask, 0)
    return {
        "mismatch_tokens": mask.sum(),
        "mismatch_kl": kl_k3(difference).sum(),
        "mismatch_abs": difference.abs().sum(),
        "weight": weights.sum(),
        "weight_squared": weights.square().sum(),
    }


@torch.no_grad()
def value_sums(old: Tensor, returns: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Sums over the masked tokens from which the explained variance follows, in float64."""
    error, wanted = (x.masked_fill(~mask, 0) for x in (returns.double() - old.double(), returns.double()))
    return {
        "value_tokens": mask.sum(),
        "returns": wanted.sum(),
        "returns_squared": wanted.square().sum(),
        "value_error": error.sum(),
        "value_error_squared": error.square().sum(),
    }


def lag_sums(samples: Sequence[TrainingSample], step: int) -> dict[str, Tensor]:
    """Response tokens of `samples` by how many versions ago they were sampled, where version `step` is trained."""
    tokens = [0, 0, 0]
    lags = 0
    for version, count in (span for sample in samples for span in sample.versions):
        lag = max(0, step - version)
        tokens[min(lag, 2)] += count
        lags += lag * count
    return {"lag_tokens": torch.tensor(tokens), "lags": torch.tensor(lags)}


def ratio_histogram(log_ratio: Tensor) -> Tensor:
    """Counts [_HISTOGRAM_BINS] of the log-ratios [n] that are finite."""
    bounded = log_ratio[log_ratio.isfinite()].clamp(-_HISTOGRAM_BOUND, _HISTOGRAM_BOUND)
    bins = ((bounded / _HISTOGRAM_BOUND + 1) * (_HISTOGRAM_BINS - 1) / 2).round().long()
    return torch.bincount(bins, minlength=_HISTOGRAM_BINS).double()


def ratio_quantile(histogram: Tensor, share: float) -> float:
    """The ratio that `share` of the tokens do not exceed, to half a percent, within [0.05, 20]."""
    cumulative = histogram.cumsum(0)
    index = int((cumulative < share * cumulative[-1]).sum())
    log_ratio = _HISTOGRAM_BOUND * (2 * index / (_HISTOGRAM_BINS - 1) - 1)
    return float(torch.tensor(log_ratio).exp())


def step_metrics(metric_sums: MetricSums, updates: int) -> dict[str, float]:
    """Means over the tokens in the loss, over all ranks, micro-batches and updates. No update, no metrics."""
    tensors, maxima = metric_sums.over_ranks()
    if "tokens" not in tensors:
        return {"loss": 0.0}
    histogram = tensors["ratio_histogram"]
    sums = {name: float(value) for name, value in tensors.items() if value.dim() == 0}
    metrics = {"loss": sums["loss"] / updates, **_policy_metrics(sums), **_mismatch_metrics(sums)}
    metrics |= {"ratio_p01": ratio_quantile(histogram, 0.01), "ratio_p99": ratio_quantile(histogram, 0.99)}
    metrics |= _lag_metrics(tensors)
    if (noise_scale := gradient_noise_scale(tensors, updates)) is not None:
        metrics["gradient_noise_scale"] = noise_scale
    metrics["clipped_high_probability_max"] = maxima["clipped_high_probability_max"]
    if "value_loss" in sums:
        metrics |= {"value_loss": sums["value_loss"] / updates, "explained_variance": explained_variance(sums)}
    return metrics


def update_metrics(norms: Sequence[float], value_norms: Sequence[float] | None) -> dict[str, float]:
    """What the gradients' norms of a step's updates tell; `value_norms` where there is a value network.

    An update whose norm is not finite was left out: it is in no mean, and counted for either network.
    """
    applied = [norm for norm in norms if math.isfinite(norm)]
    metrics = {"grad_norm": _mean(applied), "updates": float(len(applied))}
    skipped = len(norms) - len(applied)
    if value_norms is not None:
        value_applied = [norm for norm in value_norms if math.isfinite(norm)]
        metrics["value_grad_norm"] = _mean(value_applied)
        skipped += len(value_norms) - len(value_applied)
    return metrics | {"skipped_updates": float(skipped)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


def _policy_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    tokens = max(1.0, sums["tokens"])
    metrics = {
        "entropy": sums["entropy"] / tokens,
        "probability_mean": sums["probability"] / tokens,
        "clip_fraction_low": sums["clipped_low"] / tokens,
        "clip_fraction_high": sums["clipped_high"] / tokens,
        "clipped_high_probability_mean": sums["clipped_high_probability"] / max(1.0, sums["clipped_high"]),
    }
    if "dual_clipped" in sums:
        metrics["dual_clip_fraction"] = sums["dual_clipped"] / tokens
    if "kl_reference" in sums:
        metrics["kl_reference"] = sums["kl_reference"] / tokens
    return metrics


def _mismatch_metrics(sums: Mapping[str, float]) -> dict[str, float]:
    tokens = max(1.0, sums["mismatch_tokens"])
    return {
        "mismatch_kl": sums["mismatch_kl"] / tokens,
        "mismatch_abs_logprob": sums["mismatch_abs"] / tokens,
        "effective_sample_size": sums["weight"] ** 2 / max(tokens * sums["weight_squared"], 1e-12),
    }


def _lag_metrics(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """None where no payload says which versions sampled it."""
    if not (total := float(tensors["lag_tokens"].sum())):
        return {}
    shares = (tensors["lag_tokens"] / total).tolist()
    names = ("token_lag_0_share", "token_lag_1_share", "token_lag_more_share")
    return {"token_lag_mean": float(tensors["lags"]) / total, **dict(zip(names, shares, strict=True))}


def explained_variance(sums: Mapping[str, float]) -> float:
    """1 − Var(return − value) / Var(return) over tokens; 0 where the returns are all equal."""
    count = max(1.0, sums["value_tokens"])
    spread = sums["returns_squared"] / count - (sums["returns"] / count) ** 2
    error = sums["value_error_squared"] / count - (sums["value_error"] / count) ** 2
    return 1 - error / spread if spread > 1e-10 * sums["returns_squared"] / count else 0.0


def record_metrics(batch: pb.TrainBatch, loss_tokens: Sequence[int]) -> dict[str, float]:
    """What the batch record alone tells: staleness in versions by group, lengths of what was trained on in tokens."""
    staleness = [float(batch.batch) - group.issued_version for group in batch.groups]
    samples = [sample for group in batch.groups for sample in group.samples]
    lengths = [float(sample.response_tokens) for sample, tokens in zip(samples, loss_tokens, strict=True) if tokens]
    return {
        "staleness_mean": sum(staleness) / max(1, len(staleness)),
        "staleness_max": max(staleness, default=0.0),
        "trained_tokens": float(sum(loss_tokens)),
        "trained_responses": float(len(lengths)),
        "trained_response_length_mean": sum(lengths) / max(1, len(lengths)),
        "trained_response_length_max": max(lengths, default=0.0),
    }
