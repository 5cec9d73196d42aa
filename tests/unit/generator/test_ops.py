"""The CPU platform's layers against SGLang's own reference code."""

import pytest
import torch
from sglang.srt.layers.activation import SiluAndMul
from sglang.srt.layers.layernorm import RMSNorm
from sglang.srt.layers.rotary_embedding.base import RotaryEmbedding

from services.generator.cpu.ops import rms_norm, rotary, silu_and_mul


def assert_equal(found: object, expected: object) -> None:
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def test_silu_and_mul() -> None:
    x = torch.randn(5, 12)
    assert_equal(silu_and_mul(SiluAndMul(), x), SiluAndMul().forward_native(x))


@pytest.mark.parametrize("shape", [(7, 48), (3, 4, 48)])
@pytest.mark.parametrize("variant", [{}, {"var_hidden_size": 16}, {"cast_x_before_out_mul": True}])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rms_norm(shape: tuple[int, ...], variant: dict[str, int], dtype: torch.dtype) -> None:
    layer = RMSNorm(48, eps=1e-5, weight_dtype=dtype, **variant).requires_grad_(False)
    layer.weight.copy_(torch.rand(48))
    x, residual = torch.randn(2, *shape).to(dtype)
    kept = x.clone(), residual.clone()
    assert_equal(rms_norm(layer, x), layer.forward_native(x))
    assert_equal(rms_norm(layer, x, residual), layer.forward_native(x, residual))
    assert_equal(rms_norm(layer, x, residual, x), layer.forward_native(x, residual, x))
    assert_equal((x, residual), kept)


@pytest.mark.parametrize(("rotary_dim", "neox"), [(16, True), (8, True), (16, False)])
def test_rotary(rotary_dim: int, neox: bool) -> None:
    layer = RotaryEmbedding(16, rotary_dim, 64, 10000, neox, torch.float32)
    positions = torch.tensor([0, 63, 5, 5])
    query, key = torch.randn(4, 6 * 16), torch.randn(4, 2 * 16)
    offsets = torch.tensor([0, -3, 2, 1])
    for rest in ((), (None,), (offsets,)):
        assert_equal(rotary(layer, positions, query, key, *rest), layer.forward_native(positions, query, key, *rest))
    wide = (query.view(4, 6, 16), key.view(4, 2, 16))
    assert_equal(rotary(layer, positions, *wide), layer.forward_native(positions, *wide))
