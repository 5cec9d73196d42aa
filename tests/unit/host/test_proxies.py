"""Which URLs are asked for through a proxy: never this host's own."""

import os
import socket

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.host import proxies
from dapo.host.processes import child_environment
from dapo.host.proxies import BadProxy, direct_to_loopback, is_local, proxy_for

PROXY = "http://proxy.test:3128"
EVERY = {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY, "ALL_PROXY": PROXY}
LOCAL = ["localhost", "LOCALHOST.", "a.localhost", "127.0.0.1", "127.8.9.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"]


@pytest.mark.parametrize("host", [*LOCAL, socket.gethostname()])
def test_this_host_is_asked_directly(host: str) -> None:
    for scheme in ("http", "https"):
        assert proxy_for(f"{scheme}://me:secret@{host}:8000/score", EVERY) is None
        assert proxy_for(f"{scheme}://{host}", {"all_proxy": "socks4://[malformed"}) is None


@pytest.mark.parametrize(
    "host", ["rewards.test", "localhost.test", "128.0.0.1", "[2001:db8::1]", "192.0.2.7", "127.0.0.1.test"]
)
def test_other_hosts_are_asked_through_the_proxy_of_their_scheme(host: str) -> None:
    assert not is_local(host)
    assert proxy_for(f"http://{host}:8000/", {"HTTP_PROXY": PROXY}) == PROXY
    assert proxy_for(f"https://{host}/", {"HTTP_PROXY": PROXY}) is None
    assert proxy_for(f"https://{host}/", {"ALL_PROXY": PROXY}) == PROXY
    assert proxy_for(f"http://{host}/", {"HTTP_PROXY": "http://other:1", "http_proxy": PROXY}) == PROXY
    assert proxy_for(f"http://{host}/", {"http_proxy": "proxy.test:3128"}) == PROXY
    assert proxy_for(f"http://{host}/", {"http_proxy": " "}) is None


def test_no_proxy_excepts_hosts() -> None:
    for excepted in ("rewards.test", ".test", "*.test", "other, rewards.test:8000", "*"):
        assert proxy_for("http://rewards.test:8000/", EVERY | {"NO_PROXY": excepted}) is None
    for other in ("wards.test", "rewards.test:80", "", " , ", "10.0.0.0/8"):
        assert proxy_for("http://rewards.test:8000/", EVERY | {"NO_PROXY": other}) == PROXY
    assert proxy_for("http://10.1.2.3/", EVERY | {"no_proxy": "10.0.0.0/8"}) is None


def test_an_address_of_this_host_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "interface_of", lambda address: "eth0" if address == "192.0.2.7" else None)
    assert proxy_for("http://192.0.2.7:8000/", EVERY) is None
    assert proxy_for("http://192.0.2.8:8000/", EVERY) == PROXY


@pytest.mark.parametrize(
    "value",
    [
        "http://",
        "http://[::1",
        "http://proxy:port",
        "http://proxy:99999",
        "ftp://proxy",
        "socks4://proxy",
        "://",
        "http://pro xy:1",
        "http://ü..x:1",
    ],
)
def test_a_bad_variable_is_named_without_its_value(value: str) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        with pytest.raises(BadProxy, match=f"{name} is no URL of a proxy"):
            proxy_for("http://rewards.test/", {name: value})
    assert proxy_for("https://rewards.test/", {"HTTP_PROXY": value}) is None


def test_a_socks_proxy_needs_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"ALL_PROXY": "socks5://me:secret@proxy:1080"}
    monkeypatch.setattr(proxies, "find_spec", lambda name: None)
    with pytest.raises(BadProxy, match="ALL_PROXY names a SOCKS proxy") as caught:
        proxy_for("http://rewards.test/", environment)
    assert "secret" not in str(caught.value)
    monkeypatch.setattr(proxies, "find_spec", lambda name: name)
    assert proxy_for("http://rewards.test/", environment) == environment["ALL_PROXY"]


@given(st.text(alphabet="htps:/@[]a1.-ü %\t#?", max_size=12).map("http://".__add__) | st.text(max_size=20))
def test_what_is_taken_for_a_proxy_is_one_for_the_client_too(value: str) -> None:
    try:
        found = proxy_for("http://rewards.test/", {"HTTP_PROXY": value})
    except BadProxy:
        return
    if found is not None and not found.startswith("socks"):
        httpx.AsyncHTTPTransport(proxy=found)


def test_children_reach_loopback_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    assert "NO_PROXY" not in child_environment()
    monkeypatch.setenv("https_proxy", PROXY)
    monkeypatch.setenv("NO_PROXY", "rewards.test, ::1")
    child = child_environment()
    assert child["NO_PROXY"] == child["no_proxy"] == "rewards.test,::1,localhost,127.0.0.1"
    assert direct_to_loopback({"HTTP_PROXY": PROXY, "no_proxy": "*"}) == {}
