"""Log-probabilities and entropies of sampled tokens, in float32, without whole [tokens, vocabulary] copies."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_BYTES = 256 * 2**20
"""Bound on the float32 logits that exist at one time."""


def token_logprobs(
    logits: Tensor, targets: Tensor, temperature: float, *, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """log p(target) and entropy in nats of softmax(logits / temperature), each [tokens], float32.

    `logits` is [tokens, vocabulary], `targets` [tokens]. The entropy carries a gradient only when asked for.
    """
    scaled = logits.float() / temperature
    normaliser = scaled.logsumexp(dim=-1)
    logprobs = scaled.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - normaliser
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        probabilities = (scaled - normaliser.unsqueeze(-1)).exp()
        entropy = normaliser - (probabilities * scaled).sum(dim=-1)
    return logprobs, entropy


def head_logprobs(
    head: Callable[[Tensor], Tensor],
    hidden: Tensor,
    targets: Tensor,
    temperature: float,
    *,
    vocabulary: int,
    entropy_gradient: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor]:
    """`token_logprobs` of head(hidden), chunk by chunk; chunks are computed again in the backward pass.

    `hidden` is [tokens, width]. A single chunk keeps its logits, since they are within the bound anyway.
    """

    def evaluate(chunk: Tensor, chunk_targets: Tensor) -> tuple[Tensor, Tensor]:
        return token_logprobs(head(chunk), chunk_targets, temperature, entropy_gradient=entropy_gradient)

    chunk_tokens = max(1, chunk_bytes // (4 * vocabulary))
    if hidden.shape[0] <= chunk_tokens:
        return evaluate(hidden, targets)
    pairs = zip(hidden.split(chunk_tokens), targets.split(chunk_tokens), strict=True)
    parts = [checkpoint(evaluate, chunk, wanted, use_reentrant=False) for chunk, wanted in pairs]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
