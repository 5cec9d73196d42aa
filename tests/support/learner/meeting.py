"""How ranks that a test starts meet: by RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT in their environment."""

import os

import torch.distributed as dist

from dapo.spec.tree.resources import Device
from services.learner.distributed import Ranks, join_ranks


def join(device: Device = "cpu") -> Ranks:
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store = dist.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), world_size, rank == 0)
    return join_ranks(device, store, rank=rank, world_size=world_size)
