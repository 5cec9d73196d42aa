"""The losses of the DAPO family over padded responses: the policy's, and the value network's.

Every function works on [sequences, tokens] tensors with a boolean `mask` of the tokens in the loss. The loss is a *sum
of contributions*: each token is weighted by a denominator of the whole mini-batch that the caller gives, so adding up
the contributions of any micro-batches on any ranks gives the same number and the same gradient.

Sources: PPO (arXiv 1707.06347, eq. 7); DAPO (arXiv 2503.14476, eq. 8 to 12: Clip-Higher, token-level loss); GRPO (arXiv
2402.03300, eq. 3 and 4: k3 KL, sample-level loss); Dr. GRPO (arXiv 2503.20783: constant length norm); dual clip (arXiv
1912.09729, eq. 5); truncated and masked importance sampling between sampler and learner (IcePop).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dapo.spec import AlgorithmSpec
from dapo.spec.tree.algorithm import LossAggregation
from services.learner.loss.denominators import Denominators

LOG_RATIO_BOUND = 20.0
"""exp of a log-ratio stays at that of ±20, finite in float32; k3 goes on along its tangent above."""


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss's switches. `length_norm` is the constant L of seq-mean-token-sum-norm, in tokens."""

    clip_low: float
    clip_high: float
    dual_clip: float | None
    aggregation: LossAggregation
    length_norm: float
    kl_coefficient: float = 0.0
    entropy_coefficient: float = 0.0
    importance_cap: float | None = None
    importance_mode: Literal["truncate", "mask"] = "truncate"

    @classmethod
    def from_spec(cls, algorithm: AlgorithmSpec, max_response_tokens: int) -> "Objective":
        decoupled = algorithm.proximal_policy == "decoupled"
        return cls(
            clip_low=algorithm.clip_low,
            clip_high=algorithm.clip_high,
            dual_clip=algorithm.dual_clip,
            aggregation=algorithm.loss_aggregation,
            length_norm=float(max_response_tokens),
            kl_coefficient=algorithm.kl_coefficient if algorithm.kl_placement == "loss" else 0.0,
            entropy_coefficient=algorithm.entropy_coefficient,
            importance_cap=algorithm.importance_cap if decoupled else None,
            importance_mode=algorithm.importance_mode,
        )


@dataclass(frozen=True, slots=True)
class TokenInputs:
    """What the loss reads, all [sequences, tokens]: natural logarithms of the sampled tokens' probabilities.

    `current` carries the gradient. `proximal` is π_old, the anchor of the clip; `behaviour` is μ, what sampled (the
    same tensor unless the policies are decoupled). `advantages` may be [sequences, 1]. `entropy` is in nats.
    """

    current: Tensor
    proximal: Tensor
    behaviour: Tensor
    advantages: Tensor
    mask: Tensor
    entropy: Tensor
    reference: Tensor | None = None


def token_weights(mask: Tensor, aggregation: LossAggregation, totals: Denominators, length_norm: float) -> Tensor:
    """Weight of each token's loss, [sequences, 1], so that Σ weight · mask · loss over a mini-batch is the aggregate.

    `totals` counts the whole mini-batch over all micro-batches and ranks; sequences are never split.
    """
    ones = torch.ones_like(mask[:, :1], dtype=torch.float32)
    match aggregation:
        case "token-mean":
            return ones / totals.tokens
        case "seq-mean-token-mean":
            return ones / mask.sum(dim=1, keepdim=True).clamp(min=1) / totals.sequences
        case "seq-mean-token-sum":
            return ones / totals.sequences
        case "seq-mean-token-sum-norm":
            return ones / (totals.sequences * length_norm)


def clipped_policy_loss(
    current: Tensor, proximal: Tensor, advantages: Tensor, *, clip_low: float, clip_high: float, dual_clip: float | None
) -> Tensor:
    """−min(r A, clip(r, 1 − ε_low, 1 + ε_high) A) per token; for A < 0 bounded by −c A where `dual_clip` is c."""
    ratio = (current - proximal).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(-advantages * ratio, -advantages * clipped)
    if dual_clip is None:
        return loss
    return torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)


def kl_k3(log_ratio: Tensor) -> Tensor:
    """k3 estimator of KL(sampled ‖ other) per token, exp(d) − d − 1 with d = log other − log sampled; never < 0.

    Near 0 it is about d² / 2, far below the rounding of exp(d), so it is computed by expm1 in float64 and returned in
    d's own format. Above the bound of log-ratios it goes on along its tangent: its gradient always points back.
    """
    exact = log_ratio.double()
    bounded = exact.clamp(max=LOG_RATIO_BOUND)
    tangent = math.expm1(LOG_RATIO_BOUND) * torch.relu(exact - LOG_RATIO_BOUND)
    return (torch.expm1(bounded) - bounded + tangent).clamp(min=0).to(log_ratio.dtype)


def importance_weights(
    proximal: Tensor, behaviour: Tensor, cap: float, mode: Literal["truncate", "mask"] = "truncate"
) -> Tensor:
    """w = π_old / μ per token, without gradient: min(w, cap), or with `mask` 0 where w lies outside [1 / cap, cap].

    Masked tokens stay in the loss's denominators, so masking never makes the others louder.
    """
    weights = (proximal - behaviour).detach().clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND).exp()
    if mode == "truncate":
        return weights.clamp(max=cap)
    return weights.masked_fill((weights > cap) | (weights < 1 / cap), 0)


def policy_loss(inputs: TokenInputs, objective: Objective, totals: Denominators) -> Tensor:
    """This micro-batch's contribution to the mini-batch's loss: a scalar to be summed, never averaged."""
    losses = clipped_policy_loss(
        inputs.current,
        inputs.proximal,
        inputs.advantages,
        clip_low=objective.clip_low,
        clip_high=objective.clip_high,
        dual_clip=objective.dual_clip,
    )
    if objective.importance_cap is not None:
        losses = losses * importance_weights(
            inputs.proximal, inputs.behaviour, objective.importance_cap, objective.importance_mode
        )
    if objective.kl_coefficient > 0:
        if inputs.reference is None:
            raise ValueError("kl_coefficient is above 0 but the reference log-probabilities are missing")
        losses = losses + objective.kl_coefficient * kl_k3(inputs.reference - inputs.current)
    if objective.entropy_coefficient > 0:
        losses = losses - objective.entropy_coefficient * inputs.entropy
    weights = token_weights(inputs.mask, objective.aggregation, totals, objective.length_norm)
    return (losses * weights.to(losses.dtype)).masked_fill(~inputs.mask, 0).sum()


def value_loss(
    current: Tensor, old: Tensor, returns: Tensor, mask: Tensor, totals: Denominators, *, clip: float | None
) -> Tensor:
    """This micro-batch's contribution to ½ max((V − R)², (clip(V, V_old ± c) − R)²), a token mean over the mini-batch.

    All tensors are [sequences, tokens]; `old` holds the values before the step's first update, `clip` is c in units of
    reward, none for the plain squared error. Of PPO's reference implementation (openai/baselines, ppo2).
    """
    losses = (current - returns).square()
    if clip is not None:
        clipped = old + (current - old).clamp(-clip, clip)
        losses = torch.maximum(losses, (clipped - returns).square())
    return losses.masked_fill(~mask, 0).sum() / (2 * totals.tokens)
