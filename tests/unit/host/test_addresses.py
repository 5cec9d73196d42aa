"""Where this host is reached by others."""

import os
import socket
import subprocess
import sys

import pytest

from dapo.host.addresses import advertised_address, bind_collectives, interface_of, listen
from tests.support.paths import REPO


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAPO_ADDRESS", "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)


def test_what_the_launcher_says_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAPO_ADDRESS", "10.1.2.3")
    assert advertised_address("redis://127.0.0.1:6379/0") == "10.1.2.3"


@pytest.mark.parametrize("url", ["redis://127.0.0.1:6379/0", "redis://localhost", "unix:///run/redis.sock"])
def test_who_reaches_redis_by_loopback_is_on_loopback(url: str) -> None:
    assert advertised_address(url) in ("127.0.0.1", "::1")


def test_a_redis_elsewhere_gives_the_address_of_the_way_to_it() -> None:
    """Nothing is sent: the address is one of those that documents are written with (RFC 5737)."""
    try:
        address = advertised_address("redis://u:secret@192.0.2.1:6379/0")
    except OSError:
        pytest.skip("this machine has no way to other networks")
    assert not address.startswith("127.")
    assert interface_of(address) in [name for _, name in socket.if_nameindex()]


def test_a_host_name_that_nobody_knows_is_an_os_error() -> None:
    with pytest.raises(socket.gaierror):
        advertised_address("redis://no-such-host.invalid:6379/0")


def test_all_of_loopback_is_one_interface() -> None:
    assert {interface_of(address) for address in ("127.0.0.1", "127.0.0.2", "127.9.9.9")} == {"lo"}
    assert interface_of("192.0.2.77") is None
    assert interface_of("::1") is None


def test_collectives_take_the_interface_unless_the_user_has_named_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "x")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME")
    bind_collectives("127.0.0.2")
    assert (os.environ["GLOO_SOCKET_IFNAME"], os.environ["NCCL_SOCKET_IFNAME"]) == ("eth7", "lo")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME")
    bind_collectives("192.0.2.77")
    assert "NCCL_SOCKET_IFNAME" not in os.environ


def test_a_listener_is_reached_at_its_address_alone() -> None:
    with listen("127.0.0.2") as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.2", port), timeout=5):
            pass
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    with pytest.raises(OSError, match=r"[Aa]ssign"):
        listen("192.0.2.77")


def test_nothing_of_torch_is_loaded() -> None:
    code = "import sys, dapo.host.addresses, dapo.host.devices; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_answer_in_two_parts_does_not_wait_for_the_receipt_of_the_first():
    with listen("127.0.0.1") as listener, socket.create_connection(listener.getsockname()), listener.accept()[0] as one:
        assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
