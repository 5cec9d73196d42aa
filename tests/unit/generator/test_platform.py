"""The CPU platform: that SGLang takes it and its parts, what it refuses, and attention over padded chunks."""

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from services.generator.cpu import ops
from services.generator.cpu.attention import (
    _CHUNK_RATIO,
    _CHUNK_SLACK,
    _QUERY_SLACK,
    BatchedAttention,
    attend,
    build_chunk,
    chunk_rows,
    refuse_unsupported,
)
from services.generator.cpu.platform import _ATTENTION_BACKEND, CpuPlatform, activate


@pytest.mark.parametrize(("cuda", "platform"), [(True, None), (False, "services.generator.cpu.platform:CpuPlatform")])
def test_the_platform_serves_where_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, platform: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert activate() == platform


def test_sglang_finds_the_platform_by_its_entry_point() -> None:
    from importlib.metadata import entry_points

    (found,) = [entry for entry in entry_points(group="sglang.srt.platforms") if entry.name.startswith("dapo")]
    assert found.load() is activate


def test_init_backend_puts_attention_and_layers_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    from sglang.kernels.fused_op import BaseFusedOp
    from sglang.srt.layers.activation import SiluAndMul
    from sglang.srt.layers.attention import attention_registry
    from sglang.srt.layers.layernorm import RMSNorm
    from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding

    registered: dict[type, Any] = {}
    monkeypatch.setattr(
        BaseFusedOp, "register_oot_forward", lambda layer, forward, key: registered.update({layer: (forward, key)})
    )
    monkeypatch.setattr(attention_registry, "ATTENTION_BACKENDS", dict(attention_registry.ATTENTION_BACKENDS))
    monkeypatch.setattr(BatchedAttention, "__init__", lambda self, runner: None)
    platform = CpuPlatform()
    platform.init_backend()
    key = platform.get_dispatch_key_name()
    assert registered == {
        SiluAndMul: (ops.silu_and_mul, key),
        RMSNorm: (ops.rms_norm, key),
        RotaryEmbedding: (ops.rotary, key),
    }
    create = attention_registry.ATTENTION_BACKENDS[_ATTENTION_BACKEND]
    assert isinstance(create(SimpleNamespace()), BatchedAttention)


def layer(**changes: Any) -> Any:
    from sglang.srt.layers.radix_attention import AttentionType

    plain = {
        "layer_id": 3, "sliding_window_size": -1, "is_cross_attention": False, "attn_type": AttentionType.DECODER,
        "logit_cap": 0.0,
    }  # fmt: skip
    return SimpleNamespace(**{**plain, **changes})


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"sliding_window_size": 16}, "window 16"),
        ({"is_cross_attention": True}, "cross-attention"),
        ({"attn_type": "encoder_only"}, "encoder_only"),
        ({"logit_cap": 30.0}, "logit cap"),
    ],
)
def test_attention_that_would_be_wrong_is_refused(changes: dict[str, Any], named: str) -> None:
    refuse_unsupported(layer())
    with pytest.raises(NotImplementedError, match=f"layer 3 uses .*{named}"):
        refuse_unsupported(layer(**changes))


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=60))
def test_chunks_hold_each_row_once_and_bound_padding(sequences: list[tuple[int, int]]) -> None:
    """Of keys and of queries: one long new prompt must not pad many cached ones to its length."""
    lengths, new = [max(pair) for pair in sequences], [min(pair) for pair in sequences]
    chunks = chunk_rows(lengths, new)
    assert sorted(row for chunk in chunks for row in chunk) == list(range(len(lengths)))
    for chunk in chunks:
        for counts, slack in ((lengths, _CHUNK_SLACK), (new, _QUERY_SLACK)):
            inside = [counts[row] for row in chunk]
            assert max(inside) <= _CHUNK_RATIO * min(inside) + slack


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60))
def test_decoding_takes_no_more_chunks_than_the_bound_asks_for(lengths: list[int]) -> None:
    inside = [[lengths[row] for row in chunk] for chunk in chunk_rows(lengths, [1] * len(lengths))]
    for chunk, following in pairwise(inside):
        assert min(following) > _CHUNK_RATIO * min(chunk) + _CHUNK_SLACK


LENGTHS = st.one_of(st.integers(1, 8), st.integers(1, 200), st.integers(1, 2000))
AT_CHUNK_LIMITS = [1, _CHUNK_RATIO + _CHUNK_SLACK, _CHUNK_RATIO + _CHUNK_SLACK + 1, 2000]


@pytest.mark.parametrize(("heads", "key_heads"), [(4, 4), (4, 2), (6, 2), (4, 1)])
@settings(max_examples=20)
@example([(length, 1) for length in AT_CHUNK_LIMITS])
@example([(length, length) for length in AT_CHUNK_LIMITS])
@example([(length, 1 + length // 2) for length in AT_CHUNK_LIMITS])
@example([(1, 1)] * 1024)
@given(st.lists(st.tuples(LENGTHS, st.one_of(st.just(1), LENGTHS)), min_size=1, max_size=8))
def test_batched_attention_equals_attention_sequence_by_sequence(
    heads: int, key_heads: int, sequences: list[tuple[int, int]]
) -> None:
    """Sequences as (length, new tokens); what is not new is a cached prefix. All new tokens 1: decoding."""
    generator = torch.Generator().manual_seed(0)
    width = 8
    seq_lens = torch.tensor([length for length, _ in sequences])
    new_lens = torch.tensor([min(length, new) for length, new in sequences])
    used, longest = int(seq_lens.sum()), int(seq_lens.max())
    # Slot 0, at which padding points, is no sequence's, and the table's rows go on past their sequences.
    slots = 1 + torch.randperm(used, generator=generator)
    table = torch.randint(used, (len(sequences), longest + 3), generator=generator)
    places = slots.split(seq_lens.tolist())
    for row, place in enumerate(places):
        table[row, : len(place)] = place
    keys, values = (torch.randn(used + 1, key_heads, width, generator=generator) for _ in range(2))
    query = torch.randn(int(new_lens.sum()), heads, width, generator=generator)
    starts = torch.cumsum(new_lens, 0) - new_lens
    out = torch.full_like(query, torch.nan)
    for rows in chunk_rows(seq_lens.tolist(), new_lens.tolist()):
        chunk = build_chunk(torch.tensor(rows), table, seq_lens, new_lens, starts)
        out[chunk.q_rows] = attend(query, keys, values, chunk, 0.25)
    for queries, place, answer in zip(
        query.split(new_lens.tolist()), places, out.split(new_lens.tolist()), strict=True
    ):
        length, new = len(place), len(queries)
        mask = torch.arange(length)[None] <= torch.arange(length - new, length)[:, None]
        q, k, v = (x.transpose(0, 1)[None] for x in (queries, keys[place], values[place]))
        expected = scaled_dot_product_attention(q, k, v, mask, scale=0.25, enable_gqa=True)[0].transpose(0, 1)
        assert torch.allclose(answer, expected, atol=1e-5)
