"""The learner's end of the weight channel, as small as a test needs it: rank 0 of a gloo group of two."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from dapo.v1 import messages_pb2 as pb


def named_weights(model: torch.nn.Module) -> list[tuple[str, Tensor]]:
    """Parameters by name, tied ones once."""
    return [(name, parameter.detach()) for name, parameter in model.named_parameters()]


def split_buckets(weights: Sequence[tuple[str, Tensor]], count: int) -> list[list[tuple[str, Tensor]]]:
    size = -(-len(weights) // count)
    return [list(weights[at : at + size]) for at in range(0, len(weights), size)]


def describe_bucket(bucket: Sequence[tuple[str, Tensor]]) -> pb.WeightBucket:
    specs = [
        pb.TensorSpec(name=name, dtype=str(tensor.dtype).removeprefix("torch."), shape=list(tensor.shape))
        for name, tensor in bucket
    ]
    return pb.WeightBucket(tensors=specs)


class WeightSender:
    def __init__(self, group: str, timeout_s: float = 60.0) -> None:
        self.group = group
        self._timeout = timedelta(seconds=timeout_s)
        self._store = dist.TCPStore("127.0.0.1", 0, 2, True, self._timeout, wait_for_workers=False)
        self._process_group: dist.ProcessGroupGloo | None = None

    def join_message(self) -> pb.JoinGroup:
        return pb.JoinGroup(
            group_name=self.group,
            master_address="127.0.0.1",
            master_port=self._store.port,
            world_size=2,
            backend="gloo",
        )

    async def join(self) -> None:
        """To be awaited beside the receiver's join."""
        store: dist.Store = self._store
        for prefix in (self.group, f"{self.group}/", "cpu/"):
            store = dist.PrefixStore(prefix, store)
        self._process_group = await asyncio.to_thread(dist.ProcessGroupGloo, store, 0, 2, self._timeout)

    async def broadcast(self, bucket: Sequence[tuple[str, Tensor]]) -> None:
        """To be awaited beside the receiver's reception of the same bucket."""
        flat = torch.cat([tensor.contiguous().flatten().view(torch.uint8) for _, tensor in bucket])
        options = dist.BroadcastOptions()
        options.rootRank = 0
        assert self._process_group is not None
        await asyncio.to_thread(self._process_group.broadcast([flat], options).wait)
