"""Ports stay free until their servers have started."""

import socket
from pathlib import Path

from dapo.host.ports import HOST, free_port


def test_a_free_port_is_not_one_that_the_kernel_gives_away() -> None:
    port = free_port()
    ephemeral = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if ephemeral.is_file():
        assert port < int(ephemeral.read_text().split()[0])
    with socket.socket() as server:
        server.bind((HOST, port))
        server.listen()
        assert port not in {free_port() for _ in range(50)}
