"""The learner's own process group, and the few collectives its loop needs beside DeepSpeed's."""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from dapo.host.devices import device_names
from dapo.spec.tree.resources import Device

_GROUP_TIMEOUT = timedelta(minutes=30)
"""Bound on one collective between learner ranks; the longest wait is for a slow rank's micro-batch or checkpoint."""

_TEXT_BYTES = 256


@dataclass(frozen=True, slots=True)
class Ranks:
    """This process's place among the learner's ranks."""

    rank: int
    world_size: int
    local_rank: int
    device: torch.device

    @property
    def leads(self) -> bool:
        return self.rank == 0

    @property
    def device_names(self) -> list[str]:
        """The GPU that this rank computes on, as `dapo.host.devices.device_names` has it; none on a CPU."""
        return device_names()[self.local_rank : self.local_rank + 1] if self.device.type == "cuda" else []


def torch_device(wanted: Device, local_rank: int) -> torch.device:
    """`auto` is CUDA where present. Raises RuntimeError when CUDA is wanted and absent."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("resources.learner.device is cuda, but torch sees no CUDA device; use auto or cpu")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", local_rank)


def join_ranks(wanted: Device, store: dist.TCPStore, *, rank: int, world_size: int) -> Ranks:
    """Join the process group that meets in `store`.

    On a host of several GPUs that this process sees, each rank takes the next. DeepSpeed is set up here too, before its
    first import elsewhere: its accelerator, no compilation of an operator that a single host does not need, and only
    warnings in the log. Raises RuntimeError when CUDA is wanted and absent.
    """
    local_rank = rank % max(1, torch.cuda.device_count())
    device = torch_device(wanted, local_rank)
    # DeepSpeed looks for MPI where these are not set.
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world_size), "LOCAL_RANK": str(local_rank)}
    os.environ |= {"MASTER_ADDR": store.host, "MASTER_PORT": str(store.port)}
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    else:
        torch.cuda.set_device(device)

    import deepspeed
    import deepspeed.ops

    free_memory_of_any_device()
    deepspeed.utils.logger.setLevel(logging.WARNING)
    # The shared-memory operator takes a minute to compile and gains nothing over gloo on these sizes.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
    # What NCCL and DeepSpeed exchange there may wait for a rank that is still loading its model.
    store.set_timeout(_GROUP_TIMEOUT)
    if not dist.is_initialized():
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=_GROUP_TIMEOUT)
    deepspeed.init_distributed(dist_backend=backend, verbose=False)
    return Ranks(rank=rank, world_size=world_size, local_rank=local_rank, device=device)


def free_memory_of_any_device() -> None:
    """Have DeepSpeed ask CUDA for a GPU's free bytes.

    Its own way reads CUDA_VISIBLE_DEVICES as numbers, and fails where that holds UUIDs or MIG devices.
    """
    from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator

    def available_memory(_: CUDA_Accelerator, device_index: int | None = None) -> int:
        return torch.cuda.mem_get_info(device_index)[0]

    CUDA_Accelerator.available_memory = available_memory


def broadcast_ints(values: list[int]) -> list[int]:
    """Rank 0's integers, on every rank; all ranks pass lists of the same length."""
    data = torch.tensor(values, dtype=torch.int64)
    dist.broadcast(data, src=0)
    return [int(value) for value in data]


def gather_texts(text: str) -> list[str]:
    """Each rank's text, of at most 255 bytes of UTF-8, on every rank, by rank. Raises ValueError for a longer one."""
    data = text.encode()
    if len(data) >= _TEXT_BYTES:
        raise ValueError(f"{text!r} has {len(data)} bytes, at most {_TEXT_BYTES - 1} can be gathered")
    mine = torch.tensor([len(data), *data.ljust(_TEXT_BYTES - 1, b"\0")], dtype=torch.uint8)
    found = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(found, mine)
    return [bytes(one[1 : 1 + int(one[0])].tolist()).decode() for one in found]


def min_ints(values: list[int]) -> list[int]:
    """Element-wise minimum over the ranks."""
    data = torch.tensor(values, dtype=torch.int64)
    dist.all_reduce(data, op=dist.ReduceOp.MIN)
    return [int(value) for value in data]


def sum_named(values: Mapping[str, float]) -> dict[str, float]:
    """Sums by name over the ranks, which all hold the same names."""
    names = sorted(values)
    data = torch.tensor([values[name] for name in names], dtype=torch.float64)
    dist.all_reduce(data)
    return dict(zip(names, data.tolist(), strict=True))
