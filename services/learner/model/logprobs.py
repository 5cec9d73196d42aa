"""Log-probabilities and entropies of sampled tokens from hidden states, without [tokens, vocabulary] in memory.

The output embedding is evaluated on a chunk of tokens at a time and once more in the backward pass, where the gradient
of a chunk's logits takes their place (the scheme of Liger Kernel's fused linear cross-entropy, arXiv 2410.10989, here
for any gradient of the log-probabilities). Not even a single chunk keeps its logits: they would stay through the whole
backbone's backward pass, and only toys fit into one chunk.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dapo.algo.vocabulary import MASKED_LOGIT

CHUNK_BYTES = 64 * 2**20
"""Bound on one chunk's logits in float32.

A forward and backward pass needs at most two such chunks and the hidden states' gradient, beside the weight's gradient,
which is summed in float32 and cast once. That is within 4 times the hidden states at 16k tokens, vocabulary 152k and
width 896 in float32 (measured: 3.5; all logits at once: 364). `python benchmarks/logprobs.py` measures it.
"""


def head_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float,
    *,
    masked: Tensor | None = None,
    entropy_gradient: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Tensor, Tensor]:
    """log p(target) and entropy in nats of softmax((hidden · weightᵀ + bias) / temperature), each [tokens], float32.

    `hidden` is [tokens, width], `weight` [vocabulary, width], `bias` [vocabulary], `targets` [tokens]. The ids `masked`
    [n] have probability 0, and their weights no gradient; none may be a target. The entropy carries a gradient only
    when asked for. Float64 inputs give float64.
    """
    chunk_tokens = max(1, chunk_bytes // (4 * weight.shape[0]))
    logprobs, entropy = _HeadLogprobs.apply(
        hidden, weight, bias, targets, masked, temperature, entropy_gradient, chunk_tokens
    )
    return logprobs, entropy


class LogprobHead(nn.Linear):  # type: ignore[misc]
    """An output embedding that also gives log-probabilities.

    It owns its weight as the embedding it replaces did, so ZeRO 3 gathers the weight once a pass, however many chunks
    this rank has: ranks stay in step. The ids `masked` have probability 0; they are no part of what is saved. With
    `in_float32` the log-probabilities are those of float32 copies of its inputs and weights; gradients keep the
    weights' own format.
    """

    chunk_bytes = CHUNK_BYTES
    masked: Tensor

    def __init__(self, embedding: nn.Linear, *, masked: Sequence[int] = (), in_float32: bool = False) -> None:
        super().__init__(embedding.in_features, embedding.out_features, bias=False, device="meta")
        self.weight = embedding.weight
        self.bias = embedding.bias
        self.register_buffer(
            "masked", torch.tensor(masked, dtype=torch.long, device=self.weight.device), persistent=False
        )
        self.in_float32 = in_float32

    def forward(
        self, hidden: Tensor, targets: Tensor | None = None, temperature: float = 1.0, entropy_gradient: bool = False
    ) -> Any:
        """`head_logprobs` of `targets`; the logits where there are none, as Hugging Face's models call it."""
        if targets is None:
            return super().forward(hidden)
        weight, bias = self.weight, self.bias
        if self.in_float32:
            hidden, weight, bias = hidden.float(), weight.float(), None if bias is None else bias.float()
        return head_logprobs(
            hidden,
            weight,
            bias,
            targets,
            temperature,
            masked=self.masked,
            entropy_gradient=entropy_gradient,
            chunk_bytes=self.chunk_bytes,
        )


def _chunks(tokens: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, tokens, size))


def _scaled_logits(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, masked: Tensor | None, temperature: float
) -> Tensor:
    """[chunk, vocabulary], a tensor of its own in at least float32."""
    logits = functional.linear(hidden, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).div_(temperature)
    return logits if masked is None else logits.index_fill_(-1, masked, MASKED_LOGIT)


class _HeadLogprobs(torch.autograd.Function):  # type: ignore[misc]
    """Chunk by chunk and in place: at most two [chunk, vocabulary] tensors exist at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        masked: Tensor | None,
        temperature: float,
        entropy_gradient: bool,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor]:
        kind = torch.promote_types(hidden.dtype, torch.float32)
        logprobs, normaliser, entropy = hidden.new_empty((3, hidden.shape[0]), dtype=kind)
        for chunk in _chunks(hidden.shape[0], chunk_tokens):
            logits = _scaled_logits(hidden[chunk], weight, bias, masked, temperature)
            normaliser[chunk] = logits.logsumexp(dim=-1)
            logits.sub_(normaliser[chunk, None])
            logprobs[chunk] = logits.gather(-1, targets[chunk, None]).squeeze(-1)
            entropy[chunk] = logits.exp().mul_(logits).sum(dim=-1).neg_()
        ctx.save_for_backward(hidden, weight, bias, targets, masked, normaliser, entropy)
        ctx.settings = (temperature, entropy_gradient, chunk_tokens)
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_logprobs: Tensor, by_entropy: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, masked, normaliser, entropy = ctx.saved_tensors
        temperature, entropy_gradient, chunk_tokens = ctx.settings
        kind = normaliser.dtype
        hidden_needed, weight_needed, bias_needed = ctx.needs_input_grad[:3]
        to_hidden = torch.zeros_like(hidden) if hidden_needed else None
        # Not in bfloat16: what one chunk adds to the sum of many would vanish.
        to_weight = torch.zeros_like(weight, dtype=kind) if weight_needed else None
        to_bias = torch.zeros_like(bias, dtype=kind) if bias_needed else None
        for chunk in _chunks(hidden.shape[0], chunk_tokens):
            # With l = log p and H the entropy: ∂ log p(target) / ∂ logits = 1[target] − p, ∂H / ∂ logits = −p (l + H).
            by_logits = _scaled_logits(hidden[chunk], weight, bias, masked, temperature).sub_(normaliser[chunk, None])
            by_target = by_logprobs[chunk, None]
            if entropy_gradient:
                probabilities = by_logits.exp()
                by_logits.add_(entropy[chunk, None]).mul_(by_entropy[chunk, None]).add_(by_target)
                by_logits.mul_(probabilities).neg_()
                del probabilities
            else:
                by_logits.exp_().mul_(-by_target)
            by_logits.scatter_add_(-1, targets[chunk, None], by_target)
            by_logits.div_(temperature)
            if to_weight is not None:
                to_weight.addmm_(by_logits.t(), hidden[chunk].to(kind))
            if to_bias is not None:
                to_bias.add_(by_logits.sum(dim=0))
            if to_hidden is not None:
                torch.mm(by_logits.to(hidden.dtype), weight, out=to_hidden[chunk])
        to_weight = None if to_weight is None else to_weight.to(weight.dtype)
        to_bias = None if to_bias is None else to_bias.to(bias.dtype)
        return to_hidden, to_weight, to_bias, None, None, None, None, None
