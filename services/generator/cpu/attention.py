"""Attention of a whole SGLang batch at once on a CPU.

The keys and values of a sequence are scattered over SGLang's token pool. They are gathered into padded arrays; the mask
is built once for a forward pass and shared by all layers. Sequences of very different lengths go into separate chunks,
so that one long prompt does not pad all others to its length.

Shapes: B sequences of a chunk, L keys (longest of the chunk), E new tokens (longest of the chunk; 1 when decoding),
H query heads, K key heads, G = H / K, D head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend
from sglang.srt.layers.radix_attention import AttentionType
from sglang.srt.mem_cache.memory_pool import KVWriteLoc
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

if TYPE_CHECKING:
    from sglang.srt.layers.radix_attention import RadixAttention
    from sglang.srt.model_executor.forward_batch_info import ForwardBatch
    from sglang.srt.model_executor.model_runner import ModelRunner

# The longest sequence of a chunk has at most RATIO × the shortest one's length + SLACK; the slack lets short ones mix.
# Keys and queries are limited separately, as the scores take keys × queries.
_CHUNK_RATIO = 2
_CHUNK_SLACK = 32
_QUERY_SLACK = 8


@dataclass(frozen=True)
class Chunk:
    """Where the sequences of one padded array lie, for one forward pass."""

    kv_index: Tensor
    """[B × L] positions in the token pool; padding points at slot 0."""
    q_index: Tensor
    """[B, E] rows of the flat query array; padding points at row 0."""
    q_rows: Tensor
    """[tokens of the chunk] rows of the flat output, in the order of `q_valid`."""
    q_valid: Tensor
    """[B, E] False on padding."""
    mask: Tensor
    """[B, 1, E, L] True where a query may look."""


def group_by_length(rows: Sequence[int], lengths: Sequence[int], slack: int) -> list[list[int]]:
    """`rows` grouped by similar length, each once: at most _CHUNK_RATIO × the group's shortest + `slack`."""
    groups: list[list[int]] = []
    limit = -1
    for row in sorted(rows, key=lengths.__getitem__):
        if lengths[row] > limit:
            limit = _CHUNK_RATIO * lengths[row] + slack
            groups.append([])
        groups[-1].append(row)
    return groups


def chunk_rows(lengths: Sequence[int], new_lengths: Sequence[int]) -> list[list[int]]:
    """Rows with similar numbers of keys (`lengths`) and of queries (`new_lengths`), each row in one chunk."""
    by_queries = group_by_length(range(len(lengths)), new_lengths, _QUERY_SLACK)
    return [chunk for rows in by_queries for chunk in group_by_length(rows, lengths, _CHUNK_SLACK)]


def build_chunk(rows: Tensor, slots: Tensor, seq_lens: Tensor, new_lens: Tensor, starts: Tensor) -> Chunk:
    """The chunk of `rows`.

    slots [batch, ≥ L]: pool positions of each sequence; seq_lens: keys; new_lens: queries, the last ones of each
    sequence; starts: row of each sequence's first query in the flat array. All int64.
    """
    seq, new = seq_lens[rows, None], new_lens[rows, None]
    keys = torch.arange(int(seq.max()))[None]
    queries = torch.arange(int(new.max()))[None]
    q_valid = queries < new
    q_index = torch.where(q_valid, starts[rows, None] + queries, 0)
    q_position = seq - new + queries
    visible = torch.minimum(q_position, seq - 1)
    return Chunk(
        kv_index=torch.where(keys < seq, slots[rows, : keys.shape[1]], 0).flatten(),
        q_index=q_index,
        q_rows=q_index[q_valid],
        q_valid=q_valid,
        mask=(keys[:, None] <= visible[:, :, None])[:, None],
    )


def attend(query: Tensor, keys: Tensor, values: Tensor, chunk: Chunk, scale: float) -> Tensor:
    """query [tokens, H, D], keys and values [pool, K, D] → [tokens of the chunk, H, D of the values]."""
    batch, _, new, longest = chunk.mask.shape
    # index_select copies whole rows, several times faster than indexing.
    k = keys.index_select(0, chunk.kv_index).view(batch, longest, *keys.shape[1:]).transpose(1, 2)
    v = values.index_select(0, chunk.kv_index).view(batch, longest, *values.shape[1:]).transpose(1, 2)
    heads, width = query.shape[1:]
    if new == 1:
        # The G query heads that share a key head become G queries of that head, so keys are not repeated.
        q = query.index_select(0, chunk.q_rows).view(batch, k.shape[1], heads // k.shape[1], width)
        return scaled_dot_product_attention(q, k, v, chunk.mask, scale=scale).reshape(batch, heads, -1)
    q = query[chunk.q_index].transpose(1, 2)
    out = scaled_dot_product_attention(q, k, v, chunk.mask, scale=scale, enable_gqa=heads != k.shape[1])
    return out.transpose(1, 2)[chunk.q_valid]


def refuse_unsupported(layer: "RadixAttention") -> None:
    """Raises NotImplementedError for kinds of attention that are not implemented here."""
    window = layer.sliding_window_size
    if window is not None and window > -1:
        kind = f"sliding-window attention (window {window})"
    elif layer.is_cross_attention:
        kind = "cross-attention"
    elif layer.attn_type != AttentionType.DECODER:
        kind = f"attention of type {layer.attn_type}"
    elif layer.logit_cap:
        kind = f"a logit cap ({layer.logit_cap})"
    else:
        return
    raise NotImplementedError(
        f"layer {layer.layer_id} uses {kind}, which the CPU platform does not serve; use a decoder-only "
        "model with full attention (Qwen2, Qwen3, Llama), or a GPU"
    )


class BatchedAttention(TorchNativeAttnBackend):  # type: ignore[misc]
    """SGLang's attention backend on the CPU platform. `chunks` are those of the current forward pass."""

    def __init__(self, model_runner: "ModelRunner") -> None:
        super().__init__(model_runner)
        self.chunks: list[Chunk] = []

    def init_forward_metadata(self, forward_batch: "ForwardBatch") -> None:
        super().init_forward_metadata(forward_batch)
        if forward_batch.forward_mode.is_idle():
            self.chunks = []
            return
        seq_lens = forward_batch.seq_lens.long()
        lengths: list[int] = seq_lens.tolist()
        if forward_batch.forward_mode.is_decode():
            new_lens = torch.ones_like(seq_lens)
        else:
            new_lens = forward_batch.extend_seq_lens.long()
        starts = torch.cumsum(new_lens, 0) - new_lens
        slots = self.req_to_token_pool.req_to_token[forward_batch.req_pool_indices.long(), : max(lengths)].long()
        self.chunks = [
            build_chunk(torch.tensor(rows), slots, seq_lens, new_lens, starts)
            for rows in chunk_rows(lengths, new_lens.tolist())
        ]

    def forward_decode(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._forward(*args, **kwargs)

    def forward_extend(self, *args: Any, **kwargs: Any) -> Tensor:
        return self._forward(*args, **kwargs)

    def _forward(
        self,
        q: Tensor,
        k: Tensor | None,
        v: Tensor | None,
        layer: "RadixAttention",
        forward_batch: "ForwardBatch",
        save_kv_cache: bool = True,
    ) -> Tensor:
        """q [tokens, H·D] → [tokens, H·D of the values]; writes k and v to the pool first."""
        refuse_unsupported(layer)
        if save_kv_cache and k is not None and v is not None:
            location = KVWriteLoc(forward_batch.out_cache_loc, self.swa_out_cache_loc)
            self.token_to_kv_pool.set_kv_buffer(layer, location, k, v)
        query = q.reshape(-1, layer.tp_q_head_num, layer.qk_head_dim)
        keys = self.token_to_kv_pool.get_key_buffer(layer.layer_id)
        values = self.token_to_kv_pool.get_value_buffer(layer.layer_id)
        out = query.new_empty(query.shape[0], layer.tp_q_head_num, layer.v_head_dim)
        for chunk in self.chunks:
            out.index_copy_(0, chunk.q_rows, attend(query, keys, values, chunk, layer.scaling).to(out.dtype))
        return out.flatten(1)
