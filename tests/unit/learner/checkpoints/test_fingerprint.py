"""Fingerprints: equal bits, equal number, wherever they lie; other bits, another number."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from services.learner.step import fingerprint as module  # noqa: E402
from services.learner.step.fingerprint import chunk_sums, hash_tensors  # noqa: E402
from services.learner.step.fragments import own_shard, shard_place  # noqa: E402

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
SEEDS = st.integers(0, 10_000)


def values(count: int, dtype: "torch.dtype", seed: int) -> "torch.Tensor":
    return torch.randn(count, generator=torch.Generator().manual_seed(seed)).to(dtype)


def bits(tensor: "torch.Tensor") -> "torch.Tensor":
    return tensor.view(torch.int32 if tensor.element_size() == 4 else torch.int16)


@given(count=st.integers(0, 40), dtype=DTYPES, seed=SEEDS, offset=st.integers(0, 5))
def test_it_does_not_matter_where_the_values_lie(count: int, dtype: "torch.dtype", seed: int, offset: int) -> None:
    tensor = values(count, dtype, seed)
    elsewhere = torch.empty(count + offset, dtype=dtype)[offset:]
    elsewhere.copy_(tensor)
    assert hash_tensors([elsewhere]) == hash_tensors([tensor]) == hash_tensors([tensor.clone()])


@given(count=st.integers(1, 40), dtype=DTYPES, seed=SEEDS, data=st.data())
def test_one_bit_makes_another(count: int, dtype: "torch.dtype", seed: int, data: st.DataObject) -> None:
    tensor = values(count, dtype, seed)
    place = data.draw(st.integers(0, count - 1))
    bit = data.draw(st.integers(0, 8 * tensor.element_size() - 2))
    changed = tensor.clone()
    bits(changed)[place] ^= 1 << bit
    assert hash_tensors([changed]) != hash_tensors([tensor])


@given(words=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=2, max_size=2, unique=True))
def test_two_words_never_agree(words: list[int]) -> None:
    one, other = (torch.tensor([word], dtype=torch.int32) for word in words)
    assert hash_tensors([one]) != hash_tensors([other])
    assert hash_tensors([~one]) != hash_tensors([one])


@given(count=st.integers(2, 40), dtype=DTYPES, seed=SEEDS, data=st.data())
def test_two_signs_and_two_places_make_another(
    count: int, dtype: "torch.dtype", seed: int, data: st.DataObject
) -> None:
    """What plain sums of the words would miss: two highest bits that cancel out, two values that change places."""
    tensor = values(count, dtype, seed)
    one, other = data.draw(st.lists(st.integers(0, count - 1), min_size=2, max_size=2, unique=True))
    signs, swapped = tensor.clone(), tensor.clone()
    signs[[one, other]] *= -1
    swapped[[one, other]] = tensor[[other, one]]
    whole = hash_tensors([tensor])
    assert hash_tensors([signs]) != whole
    assert tensor[one] == tensor[other] or hash_tensors([swapped]) != whole


@given(count=st.integers(1, 60), dtype=DTYPES, seed=SEEDS, data=st.data())
def test_stretches_add_up_to_the_whole(count: int, dtype: "torch.dtype", seed: int, data: st.DataObject) -> None:
    """Wherever ranks cut a parameter, also within a word, and in chunks of four words."""
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=4)))
    tensor = values(count, dtype, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_WORDS", 4)
        module._multipliers.cache_clear()
        stretches = zip([0, *cuts], [*cuts, count], strict=True)
        added = sum(chunk_sums(tensor[start:end], start, count) for start, end in stretches)
        assert torch.equal(added, chunk_sums(tensor, 0, count))
    module._multipliers.cache_clear()


def test_order_and_every_chunk_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_CHUNK_WORDS", 4)
    module._multipliers.cache_clear()
    first, second = values(37, torch.float32, 0), values(37, torch.float32, 1)
    whole = hash_tensors([first, second])
    assert hash_tensors([second, first]) != whole
    for place in range(37):
        changed = second.clone()
        changed[place] += 1
        assert hash_tensors([first, changed]) != whole
    module._multipliers.cache_clear()


def test_the_padding_of_a_shard_does_not_count() -> None:
    """Seven values on two ranks: four and three, and one that nobody set."""
    whole = torch.arange(7.0)
    shards = [whole[:4].clone(), torch.cat([whole[4:], torch.tensor([float("nan")])])]
    for rank, shard in enumerate(shards):
        shard.ds_numel = 4
        parameter = torch.nn.Parameter(torch.empty(0))
        parameter.ds_numel, parameter.ds_tensor = 7, shard
        assert torch.equal(own_shard(parameter, rank), whole[4 * rank : 4 * rank + 4])
    shards[0].ds_numel, parameter.ds_numel, parameter.ds_tensor = 4, 3, shards[0]
    assert own_shard(parameter, 1).numel() == 0
    assert shard_place(parameter, 1) == (3, 0)
