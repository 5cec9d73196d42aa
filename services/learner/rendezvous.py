"""How the learner's ranks find each other: rank 0 opens a store and says on the bus where, the others look there."""

import asyncio
import time
from datetime import timedelta

import torch.distributed as dist

from dapo.bus.roles import LearnerBus
from dapo.host.addresses import listen
from services.learner.background import ControlLoop

_STORE = "learner-store"
_WAIT_S = 600.0
"""How long a rank looks for rank 0, which may be placed or started much later."""
_CONNECT = timedelta(seconds=10)
_LIFETIME_S = 10.0
"""A store is forgotten so soon after its rank 0 has gone, so that no rank joins that of a dead predecessor for long."""
_POLL_S = 0.2


class RendezvousError(RuntimeError):
    """The ranks did not find each other in time; says who waited for whom."""


def open_store(address: str, world_size: int) -> tuple[dist.TCPStore, str]:
    """On a free port of `address` alone; with the `host:port` at which the other ranks find it."""
    listener = listen(address)
    port = listener.getsockname()[1]
    store = dist.TCPStore(
        *(address, port, world_size, True),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )
    return store, f"{address}:{port}"


def find_store(control: ControlLoop, bus: LearnerBus, world_size: int) -> dist.TCPStore:
    """That of rank 0. Raises RendezvousError."""
    deadline = time.monotonic() + _WAIT_S
    reason = "it has said nothing"
    while time.monotonic() < deadline:
        where = control.call(bus.registry.find(_STORE))
        if where is not None:
            host, _, port = where.rpartition(":")
            try:
                return dist.TCPStore(host, int(port), world_size, False, timeout=_CONNECT)
            except RuntimeError as error:
                reason = f"{where} does not answer ({error})"
        time.sleep(_POLL_S)
    raise RendezvousError(
        f"waited {_WAIT_S:.0f} s for learner rank 0 to say on the bus where the ranks meet: {reason}. Look at its log, "
        "and whether this host reaches that address"
    )


async def announce_store(bus: LearnerBus, where: str) -> None:
    """Say where the store is until cancelled."""
    while True:
        await bus.registry.announce(_STORE, where, ttl_s=_LIFETIME_S)
        await asyncio.sleep(_LIFETIME_S / 3)
