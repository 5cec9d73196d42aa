"""The receiving end of a weight group as SGLang makes it: rank 1, and what it was sent."""

from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from services.learner.weights.transport import DEVICE_OF


class ReceivingGroup:
    """Joins where the learner waits for it (gloo); with NCCL the ranks meet at the first broadcast only."""

    def __init__(self, name: str, address: str, port: int, world_size: int, backend: str, timeout: timedelta) -> None:
        self._device = DEVICE_OF[backend]
        store: dist.Store = dist.TCPStore(address, port, world_size, False, timeout)
        for prefix in (name, f"{name}/", f"{self._device}/"):
            store = dist.PrefixStore(prefix, store)
        if backend == "gloo":
            self._group = dist.ProcessGroupGloo(store, 1, world_size, timeout)
        else:
            self._group = dist.ProcessGroupNCCL(store, 1, world_size, dist.ProcessGroupNCCL.Options())

    def receive(self, count: int, timeout: timedelta | None = None) -> Tensor:
        """The next broadcast, of so many bytes, on the CPU. Without a timeout that of the group holds."""
        data = torch.empty(count, dtype=torch.uint8, device=self._device)
        options = dist.BroadcastOptions()
        options.rootRank = 0
        if timeout is not None:
            options.timeout = timeout
        self._group.broadcast([data], options).wait()
        return data.cpu()

    def close(self) -> None:
        self._group.abort()
