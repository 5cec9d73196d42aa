"""The address under which this host is reached by the other workers of a run, the network interface that has it, and
which machine this is."""

import fcntl
import ipaddress
import os
import socket
import struct
from pathlib import Path
from urllib.parse import urlsplit

ADDRESS = "DAPO_ADDRESS"
"""Environment variable: the address to advertise, where a launcher knows it (a pod's, or loopback for one machine)."""
LOOPBACK = "127.0.0.1"
_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B
_DISCARD_PORT = 9
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def advertised_address(redis_url: str) -> str:
    """The launcher's address for this worker (DAPO_ADDRESS), else the one from which this host reaches the run's Redis.

    The other workers, which reach that Redis too, are expected to reach this address. Raises OSError where the host
    name of Redis cannot be resolved, or there is no route to it.
    """
    if given := os.environ.get(ADDRESS):
        return given
    host = urlsplit(redis_url).hostname
    if host is None:  # A Unix socket: everybody is on this machine.
        return LOOPBACK
    family, kind, protocol, _, target = socket.getaddrinfo(host, _DISCARD_PORT, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind, protocol) as probe:
        # Connecting a datagram socket sends nothing: the kernel only chooses the route.
        probe.connect(target)
        return str(probe.getsockname()[0])


def listen(address: str, port: int = 0) -> socket.socket:
    """A TCP listener on this address alone, for port 0 on a free port. Raises OSError where the address is not this
    host's."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family)
    # Its connections have it from here. Asyncio sets it only where a socket names its protocol, which this one does
    # not; without it the body of an HTTP answer waits 40 ms for the receipt of its head.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def interface_of(address: str) -> str | None:
    """Name of the network interface that has this IPv4 address; of `lo` for every loopback address (127.0.0.0/8).

    None where no interface has it, and for IPv6.
    """
    try:
        wanted = ipaddress.IPv4Address(address)
    except ValueError:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                own, mask = (_ask(asking, request, name) for request in (_SIOCGIFADDR, _SIOCGIFNETMASK))
            except OSError:  # An interface without an IPv4 address.
                continue
            network = ipaddress.IPv4Network(f"{own}/{mask}", strict=False)
            if wanted == own or (wanted.is_loopback and wanted in network):
                return name
    return None


def _ask(asking: socket.socket, request: int, name: str) -> ipaddress.IPv4Address:
    reply = fcntl.ioctl(asking.fileno(), request, struct.pack("256s", name.encode()[:15]))
    return ipaddress.IPv4Address(reply[20:24])


def bind_collectives(address: str) -> None:
    """Make gloo and NCCL of this process use the interface of `address`. To be called before torch is imported."""
    interface = interface_of(address)
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        os.environ.setdefault("NCCL_SOCKET_IFNAME", interface)


def machine_name() -> str:
    """The machine's identity, or where that is not known the name of this host, which may be a container's."""
    return machine_identity() or socket.gethostname()


def machine_identity(boot_id: Path = _BOOT_ID) -> str:
    """The same in all containers of a machine, until it starts anew; "" where the kernel does not tell."""
    try:
        return boot_id.read_text().strip()
    except OSError:
        return ""
