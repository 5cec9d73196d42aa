"""A fingerprint of the parameters: 64 bits that are equal where the parameters are equal, bit for bit.

Integer arithmetic alone, modulo 2⁶⁴, so it does not depend on the order in which a device adds: of each chunk of a
parameter h = Σᵢ mᵢ · wᵢ, with the bits of its values in words wᵢ of 32 and odd multipliers mᵢ. A change of one word
always changes the sum of its chunk; others are missed once in about 2³². It detects accidents, not forgery. The sums of
stretches of a parameter add up to its own, so ranks that hold shards find what one that holds all of it would.
"""

from collections.abc import Iterable
from functools import cache

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from services.learner.model.policy import TrainedModel
from services.learner.step.engine import LearnerEngine
from services.learner.step.fragments import own_shard, shard_place

_CHUNK_WORDS = 1 << 18
"""2 MiB as int64: what a step of the sum needs stays in a CPU's cache."""
_WORD_BYTES = 4
_PRIME = 0x100000001B3  # of FNV-1a, 64 bits
_MASK = (1 << 64) - 1


def fingerprint(engine: LearnerEngine[TrainedModel]) -> str:
    """Of the trained parameters, 16 hexadecimal digits, whatever the ranks and the ZeRO stage are; "" on ranks other
    than the first. All ranks call it together.

    Under ZeRO 3 each rank reads the shards it holds, otherwise rank 0 reads all parameters.
    """
    ranks, sharded = engine.ranks, engine.zero_stage == 3
    if not (sharded or ranks.leads):
        return ""
    trained = (parameter for parameter in engine.module.parameters() if parameter.requires_grad)
    sums = torch.cat([_shard_sums(one, ranks.rank) if sharded else _whole_sums(one) for one in trained]).cpu()
    if sharded:
        dist.all_reduce(sums)
    return f"{_fold(sums.tolist()):016x}" if ranks.leads else ""


def hash_tensors(tensors: Iterable[Tensor]) -> int:
    """64 bits of the tensors' bits, in their order; shapes and dtypes do not count. Reads each value once."""
    return _fold(value for tensor in tensors for value in _whole_sums(tensor).tolist())


def _whole_sums(tensor: Tensor) -> Tensor:
    return chunk_sums(tensor.detach().reshape(-1), 0, tensor.numel())


def _shard_sums(parameter: nn.Parameter, rank: int) -> Tensor:
    start, _ = shard_place(parameter, rank)
    return chunk_sums(own_shard(parameter, rank), start, parameter.ds_numel)


def chunk_sums(values: Tensor, start: int, whole: int) -> Tensor:
    """What `values` [n], the stretch from `start` on of a flattened tensor of `whole` values, add to the sums of its
    chunks: int64 [chunks], at least one, on their device."""
    per_word = _WORD_BYTES // values.element_size()
    words = _words(values, start % per_word)
    multipliers = _multipliers(values.device)
    sums = torch.zeros(max(1, -(-whole // (per_word * _CHUNK_WORDS))), dtype=torch.int64, device=values.device)
    first = start // per_word
    done = 0
    while done < len(words):
        chunk, place = divmod(first + done, _CHUNK_WORDS)
        part = words[done : done + _CHUNK_WORDS - place].long()
        sums[chunk] = part.mul_(multipliers[place : place + len(part)]).sum()
        done += len(part)
    return sums


def _fold(values: Iterable[int]) -> int:
    total = 0
    for value in values:
        total = ((total ^ (value & _MASK)) * _PRIME) & _MASK
    return total


@cache
def _multipliers(device: torch.device) -> Tensor:
    """Odd, and without a pattern that changes of neighbouring words could follow: the first numbers of SplitMix64."""
    mixed = np.arange(1, _CHUNK_WORDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return torch.from_numpy((mixed | np.uint64(1)).view(np.int64)).to(device)


def _words(values: Tensor, lead: int) -> Tensor:
    """The bits of a contiguous tensor as int32; `lead` zeros before them, and zeros behind them where they fill no
    word."""
    per_word = _WORD_BYTES // values.element_size()
    if lead or len(values) % per_word or values.storage_offset() % per_word:
        padded = values.new_zeros(-(-(lead + len(values)) // per_word) * per_word)
        padded[lead : lead + len(values)] = values
        values = padded
    return values.view(torch.int32)
