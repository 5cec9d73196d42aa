"""Several hosts on one machine: each has an address and a folder of its own, and perhaps a network of its own."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dapo.spec.workloads import Workload
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.launch.launcher import LogTail, RunTarget, WorkerStatus
from services.orchestrator.launch.local import LocalLauncher

_NETWORK = "10.77.0"


@dataclass(frozen=True)
class Host:
    address: str
    namespace: str = ""
    """Its network namespace; "" where it shares that of this process, on a loopback address."""

    def command(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *command] if self.namespace else list(command)


@contextmanager
def network(count: int) -> Iterator[list[Host]]:
    """So many hosts, each in a network namespace, joined by a bridge that nothing else is on, and this process as
    another host on it; loopback addresses where the machine lets nobody make namespaces."""
    tag = f"d{os.getpid() % 100_000}"
    hosts = [Host(f"{_NETWORK}.{at + 2}", f"{tag}-{at}") for at in range(count)]
    try:
        _make(tag, hosts)
    except (OSError, subprocess.CalledProcessError):
        _unmake(tag, hosts)
        yield [Host(f"127.0.0.{at + 2}") for at in range(count)]
        return
    try:
        yield hosts
    finally:
        _unmake(tag, hosts)


def _ip(*arguments: str, check: bool = True) -> None:
    subprocess.run([shutil.which("ip") or "ip", *arguments], check=check, capture_output=True)


def _make(tag: str, hosts: Sequence[Host]) -> None:
    _ip("link", "add", f"{tag}br", "type", "bridge")
    _ip("addr", "add", f"{_NETWORK}.1/24", "dev", f"{tag}br")
    _ip("link", "set", f"{tag}br", "up")
    for at, host in enumerate(hosts):
        _ip("netns", "add", host.namespace)
        _ip("link", "add", f"{tag}v{at}", "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
        _ip("link", "set", f"{tag}v{at}", "master", f"{tag}br", "up")
        inside = ("-n", host.namespace)
        _ip(*inside, "addr", "add", f"{host.address}/24", "dev", "eth0")
        _ip(*inside, "link", "set", "eth0", "up")
        _ip(*inside, "link", "set", "lo", "up")


def _unmake(tag: str, hosts: Sequence[Host]) -> None:
    if shutil.which("ip") is None:
        return
    for host in hosts:
        _ip("netns", "del", host.namespace, check=False)
    _ip("link", "del", f"{tag}br", check=False)


class HostsLauncher:
    """Implements Launcher: a local launcher on each host, and the workers of a workload on its hosts in turn."""

    elastic = False
    keeps_workers = False

    def __init__(self, hosts: Mapping[str, Sequence[Host]], folder: Path) -> None:
        """`hosts` by role. What a host's workers call the run's folder lies in FOLDER/<address>."""
        self._hosts = hosts
        self._folder = folder
        self._launchers = {
            host: LocalLauncher(DeviceAllocator((), folder / "locks"), address=host.address)
            for of_role in hosts.values()
            for host in of_role
        }
        self._where: dict[str, Host] = {}

    async def apply(self, run: RunTarget, workloads: Sequence[Workload]) -> None:
        placed: dict[Host, list[Workload]] = {host: [] for host in self._launchers}
        for workload in workloads:
            hosts = self._hosts[workload.role]
            for at, host in enumerate(hosts):
                share = len(range(at, workload.replicas, len(hosts)))
                name = workload.name if len(hosts) == 1 else f"{workload.name}-{at}"
                placed[host].append(_inside(host, replace(workload, name=name, replicas=share)))
        for host, launcher in self._launchers.items():
            await launcher.apply(replace(run, run_dir=self._folder / host.address), placed[host])
            self._where |= {status.worker_id: host for status in await launcher.observe(run.run_id)}

    async def observe(self, run_id: str) -> list[WorkerStatus]:
        return [status for launcher in self._launchers.values() for status in await launcher.observe(run_id)]

    async def logs(self, run_id: str, worker_id: str) -> LogTail:
        return await self._launchers[self._where[worker_id]].logs(run_id, worker_id)

    async def stop(self, run_id: str) -> None:
        for launcher in self._launchers.values():
            await launcher.stop(run_id)

    async def leave(self, run_id: str) -> None:
        await self.stop(run_id)

    async def adopt(self, run: RunTarget, workloads: Sequence[Workload]) -> list[WorkerStatus]:
        return []


def _inside(host: Host, workload: Workload) -> Workload:
    if not host.namespace:
        return workload
    environment = {**workload.environment, "HOST_NAMESPACE": host.namespace, "HOST_MODULE": workload.module}
    return replace(workload, module="tests.support.orchestrator.in_namespace", environment=environment)
