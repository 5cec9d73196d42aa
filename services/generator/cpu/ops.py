"""Elementwise layers of the CPU platform, in fewer passes over memory than SGLang's reference code.

They are registered with SGLang's dispatch for platforms outside its tree. Each computes the plain float32 case of its
layer; every other case goes to the reference code.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

if TYPE_CHECKING:
    from sglang.srt.layers.activation import SiluAndMul
    from sglang.srt.layers.layernorm import RMSNorm
    from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding


def register(dispatch_key: str) -> None:
    """Make SGLang's layers use these functions on the platform with that dispatch key."""
    from sglang.kernels.fused_op import BaseFusedOp
    from sglang.srt.layers.activation import SiluAndMul
    from sglang.srt.layers.layernorm import RMSNorm
    from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding

    for layer, forward in ((SiluAndMul, silu_and_mul), (RMSNorm, rms_norm), (RotaryEmbedding, rotary)):
        BaseFusedOp.register_oot_forward(layer, forward, dispatch_key)


def silu_and_mul(layer: "SiluAndMul", x: Tensor) -> Tensor:
    """x [..., 2 × D], gate before value → [..., D]."""
    gate, value = x.chunk(2, dim=-1)
    return functional.silu(gate).mul_(value)


def rms_norm(
    layer: "RMSNorm",
    x: Tensor,
    residual: Tensor | None = None,
    post_residual_addition: Tensor | None = None,
    quant_linear: object = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """x [..., D], normed; with a residual of that shape, their normed sum and the sum itself.

    `quant_linear`, the layer that follows, matters to kernels that fuse quantization only.
    """
    plain = x.dtype == torch.float32 and layer.variance_size_override is None and layer.override_orig_dtype is None
    if not plain or post_residual_addition is not None:
        return layer.forward_native(x, residual, post_residual_addition)  # type: ignore[no-any-return]
    total = x if residual is None else x + residual
    normed = functional.rms_norm(total, (layer.hidden_size,), layer.weight, layer.variance_epsilon)
    return normed if residual is None else (normed, total)


def rotary(
    layer: "RotaryEmbedding", positions: Tensor, query: Tensor, key: Tensor, *rest: Any, **options: Any
) -> tuple[Tensor, Tensor]:
    """positions [tokens], query [tokens, H × D], key [tokens, K × D], rotated half against half (Neox style)."""
    plain = layer.is_neox_style and layer.rotary_dim == layer.head_size and query.dtype == torch.float32
    flat = query.dim() == key.dim() == 2
    if not plain or not flat or any(option is not None for option in (*rest, *options.values())):
        return layer.forward_native(positions, query, key, *rest, **options)  # type: ignore[no-any-return]
    cos, sin = layer.cos_sin_cache.index_select(0, positions.flatten()).chunk(2, dim=-1)
    cos = torch.cat((cos, cos), dim=-1)[:, None]
    sin = torch.cat((-sin, sin), dim=-1)[:, None]
    return _rotate(query, cos, sin), _rotate(key, cos, sin)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [tokens, heads × D]; cos and sin [tokens, 1, D]."""
    width = cos.shape[-1]
    heads = x.unflatten(-1, (-1, width))
    return (heads * cos).addcmul_(heads.roll(width // 2, dims=-1), sin).flatten(-2)
