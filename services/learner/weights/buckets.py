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
    bucket has one for itself. The cut is made once and is the same for every version. Under ZeRO 3 a bucket is gathered
    from all ranks when it is asked for, and released after it, so no rank holds the whole model.
    """

    def __init__(self, engine: LearnerEngine[PolicyModel], bucket_mib: int, *, adapter: bool = False) -> None:
        self._engine = engine
        self.rounding = Rounding()
        """Of the version that `flattened` gave last, on rank 0."""
        policy = engine.module
        named = list((policy.adapter_weights() if adapter else policy.served_weights()).items())
        sizes = [weight.bytes for _, weight in named]
        self._buckets = [[named[i] for i in bucket] for bucket in split_buckets(sizes, bucket_mib * 2**20)]

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

    def flattened(self, device: torch.device) -> Iterator[Tensor]:
        """Each bucket's bytes as a new uint8 tensor on `device`, on rank 0; the others yield nothing. Exhaust it."""
        leads = self._engine.ranks.leads
        if not leads and self._engine.zero_stage < 3:
            return
        self.rounding = Rounding()
        for bucket in self._buckets:
            with self._engine.gathered([one for _, weight in bucket for one in weight.parameters]):
                if not leads:
                    continue
                parts = [weight.value(self.rounding).contiguous().view(-1).view(torch.uint8) for _, weight in bucket]
                yield torch.cat(parts).to(device)
