"""A fingerprint of the parameters: 64 bits that are equal where the parameters are equal, bit for bit.

Integer arithmetic alone, modulo 2⁶⁴, so it does not depend on the order in which a device adds: h = Σᵢ mᵢ · f(wᵢ), with
the bits of the parameters in words wᵢ of 64, odd multipliers mᵢ, and in f(w) the upper half of w added to the lower by
xor. Both have an inverse, so a change of one word always changes the sum of its chunk; others are missed once in about
2⁶⁴. It detects accidents, not forgery.
"""

from collections.abc import Iterable, Iterator
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor, nn

from services.learner.model.policy import TrainedModel
from services.learner.step.engine import LearnerEngine

_CHUNK_WORDS = 1 << 18
"""2 MiB: what a step of the sum needs stays in a CPU's cache."""
_WORD_BYTES = 8
_ODD = -7046029254386353131  # 2⁶⁴ / golden ratio, odd
_PRIME = 0x100000001B3  # of FNV-1a, 64 bits
_MASK = (1 << 64) - 1
_LOWER_HALF = (1 << 32) - 1


def fingerprint(engine: LearnerEngine[TrainedModel]) -> str:
    """Of the trained parameters, 16 hexadecimal digits; "" on ranks other than the first. All ranks call it together.

    Under ZeRO 3 each rank takes the shards it holds, so the fingerprint also depends on the number of ranks; otherwise
    rank 0 takes the whole parameters.
    """
    ranks, sharded = engine.ranks, engine.zero_stage == 3
    if not (sharded or ranks.leads):
        return ""
    trained = (parameter for parameter in engine.module.parameters() if parameter.requires_grad)
    mine = hash_tensors(own_shard(parameter, ranks.rank) for parameter in trained) if sharded else hash_tensors(trained)
    if sharded:
        found = [torch.zeros(1, dtype=torch.int64) for _ in range(ranks.world_size)]
        dist.all_gather(found, torch.tensor([mine - (1 << 64) if mine >> 63 else mine]))
        mine = _fold(int(one) for one in found)
    return f"{mine:016x}" if ranks.leads else ""


def own_shard(parameter: nn.Parameter, rank: int) -> Tensor:
    """The values of a parameter that this rank holds under ZeRO 3, without the padding, which holds anything."""
    shard: Tensor = parameter.ds_tensor
    values = parameter.ds_numel - rank * shard.ds_numel
    return shard.detach().view(-1)[: max(0, min(values, shard.ds_numel))]


def hash_tensors(tensors: Iterable[Tensor]) -> int:
    """64 bits of the tensors' bits, in their order; shapes and dtypes do not count. Reads each value once."""
    return _fold(value for tensor in tensors for value in torch.stack(list(_chunk_sums(tensor.detach()))).tolist())


def _fold(values: Iterable[int]) -> int:
    total = 0
    for value in values:
        total = ((total ^ (value & _MASK)) * _PRIME) & _MASK
    return total


def _chunk_sums(tensor: Tensor) -> Iterator[Tensor]:
    """One int64 scalar for each chunk, at least one, on the tensor's device."""
    multipliers = _multipliers(tensor.device)
    for part in tensor.reshape(-1).split(_CHUNK_WORDS * _WORD_BYTES // tensor.element_size()):
        words = _words(part)
        mixed = (words >> 32).bitwise_and_(_LOWER_HALF).bitwise_xor_(words)
        yield mixed.mul_(multipliers[: len(words)]).sum()


@cache
def _multipliers(device: torch.device) -> Tensor:
    return (2 * torch.arange(_CHUNK_WORDS, dtype=torch.int64, device=device) + 1) * _ODD


def _words(values: Tensor) -> Tensor:
    """The bits of a contiguous tensor as int64, with zeros behind them where they fill no word."""
    per_word = _WORD_BYTES // values.element_size()
    if len(values) % per_word or values.storage_offset() % per_word:
        padded = values.new_zeros(-(-len(values) // per_word) * per_word)
        padded[: len(values)] = values
        values = padded
    return values.view(torch.int64)
