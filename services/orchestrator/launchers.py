"""Which launcher a service has, and what it counts runs by: a row of LAUNCHERS for each."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import NamedTuple

from dapo.bus import BusUnavailable
from dapo.bus.agents import AgentRecords
from dapo.host.devices import visible_cuda_devices
from dapo.spec.checks.resources import LONGEST_OUTAGE_S
from services.orchestrator.launch.attached.census import Census
from services.orchestrator.launch.attached.launcher import AttachedLauncher
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.launch.kubernetes.open import open_kubernetes
from services.orchestrator.launch.kubernetes.pods.ranks import uneven_ranks
from services.orchestrator.launch.launcher import Launcher, LaunchError
from services.orchestrator.launch.local import LocalLauncher
from services.orchestrator.queue.capacity import Capacity
from services.orchestrator.queue.cluster import ClusterCapacity
from services.orchestrator.queue.machine import Machine
from services.orchestrator.queue.pool import Pool
from services.orchestrator.runs.outcome import is_done


class BadLauncher(ValueError):
    """Names the option that does not go with the launcher, and the cure."""


class Opened(NamedTuple):
    launcher: Launcher
    capacity: Capacity


Open = Callable[[argparse.Namespace, AsyncExitStack], Awaitable[Opened]]
"""From the service's arguments; what is to be closed goes on the stack. Raises BadLauncher, BusError, DeviceError."""


async def open_local(arguments: argparse.Namespace, stack: AsyncExitStack) -> Opened:
    """Child processes on this machine."""
    devices = DeviceAllocator(visible_cuda_devices())
    memory = arguments.memory_gib * 2**30 if arguments.memory_gib is not None else None
    machine = Machine(devices, runs=arguments.max_runs, cores=arguments.cores, memory=memory)
    return Opened(LocalLauncher(devices), machine)


async def open_attached(arguments: argparse.Namespace, stack: AsyncExitStack) -> Opened:
    """Workers of agents that meet the service in its Redis."""
    if arguments.redis_url is None:
        raise BadLauncher(
            "--launcher attached needs a Redis that agents reach: give --redis-url, or set REDIS_URL. The Valkey that "
            "the service would embed listens on loopback"
        )
    given = {"--embedded": arguments.embedded, "--cores": arguments.cores, "--memory-gib": arguments.memory_gib}
    if wrong := [option for option, value in given.items() if value]:
        raise BadLauncher(f"--launcher attached does not go with {' and '.join(wrong)}: leave that out")
    records = await AgentRecords.connect(arguments.redis_url, LONGEST_OUTAGE_S)
    stack.push_async_callback(records.close)
    census = Census(records)
    try:
        await census.take()
    except TimeoutError as error:
        raise BusUnavailable("the Redis of --redis-url does not tell of agents in time: look at its load") from error
    watching = asyncio.create_task(census.run())
    stack.callback(watching.cancel)
    launcher = AttachedLauncher(records, arguments.state_dir, arguments.redis_url)
    return Opened(launcher, Pool(census, runs=arguments.max_runs))


async def open_cluster(arguments: argparse.Namespace, stack: AsyncExitStack) -> Opened:
    """Pods of a Kubernetes cluster."""
    given = {"--embedded": arguments.embedded, "--cores": arguments.cores, "--memory-gib": arguments.memory_gib}
    if wrong := [option for option, value in given.items() if value]:
        raise BadLauncher(f"--launcher kubernetes does not go with {' and '.join(wrong)}: leave that out")
    try:
        launcher, settings = await open_kubernetes(arguments, stack, is_done)
    except LaunchError as error:
        raise BadLauncher(str(error)) from error
    return Opened(launcher, ClusterCapacity(arguments.max_runs, partial(uneven_ranks, settings=settings)))


LAUNCHERS: Mapping[str, Open] = {"local": open_local, "attached": open_attached, "kubernetes": open_cluster}
"""By the name that --launcher takes."""
