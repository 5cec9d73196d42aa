"""The weights as flattened buckets, in the layout of SGLang's load format `flattened_bucket`."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dapo.v1 import messages_pb2 as pb
from services.learner.model.lora import Rounding
from services.learner.model.policy import PolicyModel
from services.learner.step.engine import LearnerEngine


def split_buckets(sizes: list[int], limit: int) -> list[list[int]]:
    """Consecutive positions in buckets of at most `limit` bytes; a larger tensor goes alone."""
    buckets: list[list[int]] = []
    filled = 0
    for position, size in enumerate(sizes):
        if not buckets or filled + size > limit:
            buckets.append([])
            filled = 0
        buckets[-1].append(position)
        filled += size
    return buckets


class WeightBuckets:
    """The policy's weights as they are served, cut into buckets of at most `bucket_mib` MiB: the model, or with
    `adapter` the LoRA adapter alone.

    A bucket is the concatenated bytes of its tensors, in order and without padding; a tensor that is larger than a
    bucket has one for itself. The cut is made once and is the same for every version and on every rank. Under ZeRO 3 a
    bucket is gathered from all ranks when its turn comes, and released after it, so no rank holds the whole model; at
    other stages each rank has all weights, and makes a bucket whenever it wants one.
    """

    def __init__(self, engine: LearnerEngine[PolicyModel], bucket_mib: int, *, adapter: bool = False) -> None:
        self._engine = engine
        self.rounding = Rounding()
        """Of what was made since `renew`, each bucket counted once."""
        self._counted: set[int] = set()
        policy = engine.module
        named = list((policy.adapter_weights() if adapter else policy.served_weights()).items())
        sizes = [weight.bytes for _, weight in named]
        self._buckets = [[named[i] for i in bucket] for bucket in split_buckets(sizes, bucket_mib * 2**20)]

    @property
    def gathers(self) -> bool:
        """Whether buckets come by `gathered` alone: under ZeRO 3."""
        return self._engine.zero_stage == 3

    def specs(self) -> list[pb.WeightBucket]:
        return [
            pb.WeightBucket(
                tensors=[
                    pb.TensorSpec(name=name, dtype=str(weight.dtype).removeprefix("torch."), shape=weight.shape)
                    for name, weight in bucket
                ]
            )
            for bucket in self._buckets
        ]

    def renew(self) -> None:
        """The parameters have changed, or are sent again: what their rounding leaves is measured anew."""
        self.rounding = Rounding()
        self._counted.clear()

    def make(self, position: int, device: torch.device) -> Tensor:
        """One bucket's bytes as a new uint8 tensor on `device`. In any thread, while the parameters do not change, but
        not in two at a time."""
        rounding = None if position in self._counted else self.rounding
        self._counted.add(position)
        parts = [
            weight.value(rounding).contiguous().view(-1).view(torch.uint8) for _, weight in self._buckets[position]
        ]
        return torch.cat(parts).to(device)

    def gathered(self, device: torch.device, *, wanted: bool) -> Iterator[Tensor]:
        """Each bucket in turn, on a rank that `wanted` them; the others yield nothing. At any stage; all ranks call and
        exhaust it together."""
        for position, bucket in enumerate(self._buckets):
            with self._engine.gathered([one for _, weight in bucket for one in weight.parameters]):
                if wanted:
                    yield self.make(position, device)

    def measure_rest(self) -> None:
        """Have `rounding` count what was not made since `renew`, e.g. where this rank sends to nobody. Not under ZeRO
        3: there whoever measures is to want the buckets."""
        for position, bucket in enumerate(self._buckets):
            if position not in self._counted and not self.gathers:
                self._counted.add(position)
                for _, weight in bucket:
                    if weight.delta is not None:
                        weight.value(self.rounding)
