"""A sender's end of one weight group: rank 0 of a process group whose other ranks are one SGLang server.

SGLang 0.5 joins from its route /init_weights_update_group through torch's rendezvous, which puts the group's keys below
three prefixes in a TCP store; the same chain is made here from torch's public classes. Every call blocks, is bounded by
a timeout and belongs in a thread of its own.
"""

import math
import os
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from dapo.host.addresses import listen

_POLL_S = 0.005
_NEVER = timedelta(days=365)
"""Timeout of torch's watchdog of NCCL, which would end the whole process; the deadlines are kept here instead."""
_CONNECTING = "TORCH_NCCL_NONBLOCKING_TIMEOUT"
"""Seconds after which torch gives up a NCCL group whose other ranks do not come; read once in a process."""
DEVICE_OF = {"gloo": "cpu", "nccl": "cuda"}
Backend = Literal["gloo", "nccl"]


class WeightGroupError(RuntimeError):
    """Joining or broadcasting failed or took too long; the group is of no further use."""


def choose_backend(wanted: Literal["auto", "gloo", "nccl"], sender: Sequence[str], receiver: Sequence[str]) -> Backend:
    """What carries the weights between two workers that say which GPUs they use. `auto` is NCCL where both use some and
    share none, since NCCL refuses two ranks on one GPU."""
    if wanted != "auto":
        return wanted
    return "nccl" if sender and receiver and not set(sender) & set(receiver) else "gloo"


class WeightGroup:
    """One process group of a sender and one SGLang server: `world_size` is 1 + its tensor-parallel ranks.

    The constructor opens the group's TCP store on a free port of `address`, so that both can be sent to the receiver;
    `join` waits for it there, `broadcast` sends, `close` ends it and may be called beside either. A group that raised
    is of no further use. Groups share nothing: the failure of one does not touch another.
    """

    def __init__(self, name: str, world_size: int, backend: Backend, timeout_s: float, address: str) -> None:
        self.name = name
        self.world_size = world_size
        self.backend = backend
        listener = listen(address)
        self._store = dist.TCPStore(
            address,
            listener.getsockname()[1],
            world_size,
            is_master=True,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
        self._group: dist.ProcessGroupGloo | dist.ProcessGroupNCCL | None = None
        self._closed = False

    @property
    def port(self) -> int:
        return int(self._store.port)

    def join(self, timeout_s: float) -> None:
        """Wait until every other rank has joined. Raises WeightGroupError after `timeout_s`.

        NCCL connects on its first broadcast only, within the `timeout_s` of the process's first join.
        """
        store: dist.Store = self._store
        for prefix in (self.name, f"{self.name}/", f"{DEVICE_OF[self.backend]}/"):
            store = dist.PrefixStore(prefix, store)
        timeout = timedelta(seconds=timeout_s)
        try:
            if self.backend == "gloo":
                self._group = dist.ProcessGroupGloo(store, 0, self.world_size, timeout)
            else:
                options = dist.ProcessGroupNCCL.Options()
                options._timeout = _NEVER
                # Else the first broadcast waits for its peers inside NCCL, where nothing can end it.
                options.config.blocking = 0
                os.environ.setdefault(_CONNECTING, str(math.ceil(timeout_s)))
                self._group = dist.ProcessGroupNCCL(store, 0, self.world_size, options)
        except RuntimeError as error:
            raise WeightGroupError(
                f"weight group {self.name}: nobody joined within {timeout_s:g} s: {error}"
            ) from error
        if self._closed:
            self.close()
            raise WeightGroupError(f"weight group {self.name} was closed while it was joined")

    def broadcast(self, data: Tensor, timeout_s: float) -> None:
        """Send `data`, contiguous bytes, to every other rank; gloo sends from the CPU. Raises WeightGroupError."""
        group = self._group
        if group is None:
            raise WeightGroupError(f"weight group {self.name}: broadcast before join, or after close")
        if self.backend == "gloo":
            data = data.cpu()
        options = dist.BroadcastOptions()
        options.rootRank = 0
        options.timeout = timedelta(seconds=timeout_s)
        try:
            group.broadcast([data], options).wait()
            if data.is_cuda:
                # A thread's current GPU is the first one, whichever the learner rank computes on.
                with torch.cuda.device(data.device):
                    self._finish_on_device(timeout_s)
        except RuntimeError as error:
            raise WeightGroupError(f"weight group {self.name}: broadcast failed: {error}") from error

    def _finish_on_device(self, timeout_s: float) -> None:
        """NCCL only queues the broadcast: wait for the device, or abort what hangs there."""
        done = torch.cuda.Event()
        done.record()
        deadline = time.monotonic() + timeout_s
        while not done.query():
            if time.monotonic() > deadline:
                self.close()
                raise WeightGroupError(f"weight group {self.name}: broadcast took longer than {timeout_s:g} s")
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Free the group; the receiver's pending collective fails. NCCL's collectives are aborted at once; gloo's
        cannot be, so this waits until the one under way has failed or has met its timeout."""
        self._closed = True
        group, self._group = self._group, None
        if group is not None:
            group.abort()
