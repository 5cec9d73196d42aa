"""Through which proxy a URL is asked for: the variables HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY.

This very host is never asked through a proxy, as a proxy elsewhere would reach itself by such an address.
"""

import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

from dapo.host.addresses import interface_of

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HTTP = ("http", "https")
_SOCKS = ("socks5", "socks5h")
_HOST = re.compile(r"\w([\w.-]*\w)?\.?|[0-9a-f:.]+", re.ASCII)
_CURE = "Or unset it, or name the host in NO_PROXY"


class BadProxy(ValueError):
    """A variable names no proxy that can be used. The message names the variable, without its value, and the cure."""


def proxy_for(url: str, environment: Mapping[str, str] | None = None) -> str | None:
    """URL of the proxy for `url`; None to ask its host directly. The small spelling of a variable goes first.

    `environment` is this process's own unless given. Raises BadProxy, only where the variable counts for this URL.
    """
    variables = os.environ if environment is None else environment
    parts = urlsplit(url)
    host = parts.hostname or ""
    names = [name for kind in (parts.scheme, "all") for name in (f"{kind}_proxy", f"{kind}_proxy".upper())]
    name = next((name for name in names if variables.get(name, "").strip()), None)
    if name is None or is_local(host) or _excepted(host, parts.port, variables):
        return None
    return _checked(variables[name].strip(), name)


def is_local(host: str) -> bool:
    """Whether a host's name or address is of this host: loopback, its own name, an address of one of its interfaces."""
    name = host.strip("[]").rstrip(".").lower()
    if name in ("localhost", socket.gethostname().lower()) or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    return address.is_loopback or address.is_unspecified or interface_of(str(address)) is not None


def direct_to_loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """NO_PROXY, in both spellings, for a child whose libraries would ask for loopback through a proxy; else nothing."""
    if not any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in environment):
        return {}
    excepted = [one.strip() for one in _no_proxy(environment).split(",") if one.strip()]
    if "*" in excepted:
        return {}
    joined = ",".join(dict.fromkeys((*excepted, *_LOOPBACK)))
    return {"no_proxy": joined, "NO_PROXY": joined}


def _no_proxy(environment: Mapping[str, str]) -> str:
    return environment.get("no_proxy") or environment.get("NO_PROXY") or ""


def _excepted(host: str, port: int | None, environment: Mapping[str, str]) -> bool:
    """Whether NO_PROXY names the host, a domain that it is in, a network of its address, or all hosts (`*`)."""
    return any(_names(one.strip().lower(), host.rstrip("."), port) for one in _no_proxy(environment).split(","))


def _names(entry: str, host: str, port: int | None) -> bool:
    name = entry.removeprefix("*").lstrip(".")
    if not name:
        return entry == "*"
    if "/" in name:
        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
        except ValueError:
            return False
    return name.strip("[]") == host or name == f"{host}:{port}" or host.endswith(f".{name}")


def _checked(value: str, name: str) -> str:
    url = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(url)
        usable = _HOST.fullmatch(parts.hostname or "") is not None and parts.port != 0 and url.isprintable()
    except ValueError:  # No port, or brackets that are not closed.
        usable = False
    if usable and parts.scheme in _SOCKS and find_spec("socksio") is None:
        raise BadProxy(
            f"{name} names a SOCKS proxy, for which a package is missing: pip install 'httpx[socks]'. {_CURE}"
        )
    if not usable or parts.scheme not in (*_HTTP, *_SOCKS):
        raise BadProxy(f"{name} is no URL of a proxy, such as http://proxy:3128. Correct it. {_CURE}")
    return url
