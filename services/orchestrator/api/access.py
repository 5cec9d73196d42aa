"""Who may use the run service: a bearer token, compared in constant time; none is needed on loopback."""

import hmac
import ipaddress

from dapo.client import TOKEN_VARIABLE


class UnsafeBind(ValueError):
    """The service would listen beyond this machine without a token."""


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_bind(host: str, token: str | None) -> None:
    """Raises UnsafeBind for another host than loopback without a token."""
    if not token and not is_loopback(host):
        raise UnsafeBind(
            f"--host {host} is not loopback: set {TOKEN_VARIABLE} to a secret that clients send as a bearer token, "
            "or bind to 127.0.0.1"
        )


def is_authorised(header: str | None, token: str | None) -> bool:
    """Whether an Authorization header carries the token; always, when there is no token."""
    if not token:
        return True
    scheme, _, value = (header or "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(value.strip().encode(), token.encode())
