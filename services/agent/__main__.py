"""`python -m services.agent`: runs workers of runs on this machine, one at a time."""

import argparse
import asyncio
import logging
import os
import re
import secrets
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dapo.bus import BusError, BusUnavailable
from dapo.bus.agents import Agent, AgentRecords
from dapo.environment import REDIS_VARIABLE
from dapo.host.addresses import machine_identity
from dapo.host.devices import (
    DeviceError,
    count_gpus,
    device_identity,
    driver_gpus,
    lock_device,
    parse_visible_devices,
    visible_cuda_devices,
)
from dapo.host.memory import total_bytes
from dapo.host.processes import die_with_parent
from dapo.host.storage import in_words
from dapo.spec.tree.resources import RedisResources
from dapo.spec.workloads import MODULES
from dapo.telemetry.logs import configure
from services.agent.agent import AgentLoop, Place

log = logging.getLogger("services.agent")

_RETRY_S = 1.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class BadOption(ValueError):
    """Names the option and the cure."""


def _arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="dapo agent", description=__doc__)
    parser.add_argument("--role", choices=sorted(MODULES), required=True, help="of the workers that it runs")
    parser.add_argument(
        "--redis-url", default=os.environ.get(REDIS_VARIABLE) or None, help="of the run service (default: REDIS_URL)"
    )
    parser.add_argument("--name", default="", help="how people call it (default: host and role)")
    parser.add_argument("--gpus", default=None, help="as CUDA_VISIBLE_DEVICES, none for none; default: all")
    parser.add_argument("--work-dir", type=Path, default=Path(), help="the run service's --state-dir, as seen here")
    parser.add_argument("--address", default="", help="that workers advertise; default: towards Redis")
    parser.add_argument("--outage-s", type=float, default=RedisResources().outage_s, help="a Redis that is away")
    parser.add_argument("--alive-file", type=Path, help="written anew with every beat that Redis has answered")
    parser.add_argument("--die-with-parent", action="store_true", help="stop when the parent process ends")
    return parser.parse_args(arguments)


def _agent(arguments: argparse.Namespace, gpus: int) -> Agent:
    """Raises BadOption."""
    host = socket.gethostname()
    name = arguments.name or f"{re.sub(r'[^A-Za-z0-9._-]', '-', host)[:48] or 'host'}-{arguments.role}"
    if not _NAME.fullmatch(name):
        raise BadOption(f"--name {name!r}: use up to 64 letters, digits, '.', '_' or '-'")
    agent_id, cores = f"{name}-{secrets.token_hex(3)}", len(os.sched_getaffinity(0))
    return Agent(agent_id, arguments.role, host, gpus, cores, total_bytes(), machine=machine_identity())


def _place(arguments: argparse.Namespace) -> Place:
    """Raises BadOption, DeviceError, OSError."""
    if arguments.redis_url is None:
        raise BadOption("--redis-url is missing: give the URL of the run service's Redis, or set REDIS_URL")
    if arguments.gpus is None:
        devices = visible_cuda_devices()
    elif not (devices := parse_visible_devices(arguments.gpus)) and arguments.gpus != "none":
        raise BadOption(f"--gpus {arguments.gpus!r} names no GPU: give indices or UUIDs with commas, or none")
    _hold(devices)
    arguments.work_dir.mkdir(parents=True, exist_ok=True)
    return Place(arguments.work_dir, arguments.redis_url, devices, arguments.address, arguments.alive_file)


def _hold(devices: Sequence[str]) -> None:
    """Keeps GPUs from runs and other agents of this machine for as long as the process lives. Raises BadOption for one
    that is not there or that somebody else has, OSError."""
    gpus, count = driver_gpus(), count_gpus()
    for device in devices:
        if device.isdecimal() and int(device) >= count:
            there = f"it has {count}, counted from 0" if count else "it has none: leave --gpus out, or give none"
            raise BadOption(f"--gpus: this machine has no GPU {device}; {there}")
        identity = device_identity(device, gpus)
        # Twice: a run service of this machine may be looking whether it is free.
        if lock_device(identity) is None and lock_device(identity) is None:
            raise BadOption(f"--gpus: another agent or a run of this machine has GPU {device}. Give each agent its own")


async def _connect(url: str, outage_s: float) -> AgentRecords:
    """Waits for a Redis that is not there yet. Raises BusError after `outage_s`."""
    deadline = time.monotonic() + outage_s
    while True:
        try:
            return await AgentRecords.connect(url, outage_s)
        except BusUnavailable as error:
            if time.monotonic() >= deadline:
                raise
            log.warning("waiting for Redis, %.0f s at most: %s", outage_s, error)
        await asyncio.sleep(_RETRY_S)


async def _work(arguments: argparse.Namespace, agent: Agent, place: Place) -> None:
    records = await _connect(place.redis_url, arguments.outage_s)
    loop = AgentLoop(records, agent, place)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, loop.leave)
    log.info("%s takes workers of the role %s, with %d GPUs", agent, agent.role, agent.gpus)
    try:
        await loop.run()
    finally:
        await records.close()


def main() -> int:
    arguments = _arguments()
    if arguments.die_with_parent:
        die_with_parent()
    configure("agent")
    try:
        place = _place(arguments)
        asyncio.run(_work(arguments, _agent(arguments, len(place.devices)), place))
    except (BadOption, DeviceError, BusError, OSError) as error:
        sys.stderr.write(f"the agent ends: {in_words(error)}\n")
        return 2 if isinstance(error, (BadOption, DeviceError)) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
