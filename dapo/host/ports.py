"""Ports for servers on loopback."""

import random
import socket
from pathlib import Path

HOST = "127.0.0.1"
_LOWEST = 15_000
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_EPHEMERAL_START = 32_768
_TRIES = 200


def free_port() -> int:
    """A TCP port that nobody listens on now, below those that the kernel gives to outgoing connections.

    A server may take half a minute until it binds its port; an ephemeral one would often be somebody else's by then.
    Raises OSError where no port is found.
    """
    highest = _EPHEMERAL_START
    if _EPHEMERAL.is_file():
        highest = max(_LOWEST + _TRIES, int(_EPHEMERAL.read_text().split()[0]))
    # Not the run's seed: two runs at once must not go for the same ports.
    for port in random.SystemRandom().sample(range(_LOWEST, highest), _TRIES):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free TCP port among {_TRIES} tried on {HOST} from {_LOWEST} to {highest}")
