"""Where a run service is, and how it and its clients know each other."""

import ssl
from collections.abc import Mapping
from typing import NamedTuple, Self

import httpx

from dapo.client.errors import SettingsError
from dapo.environment import DEFAULT_URL, TOKEN_VARIABLE, URL_VARIABLE
from dapo.redaction import redact_url

_LAST_PORT = 65535


class ClientTls(NamedTuple):
    """PEM files with which a client and an https service know each other."""

    ca: str = ""
    """Of the authority that signed the service's certificate; "": the usual ones."""
    certificate: str = ""
    """The client's own, where the service wants one, with `key`."""
    key: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Self:
        """As DAPO_TLS_CA, DAPO_TLS_CERT and DAPO_TLS_KEY say."""
        return cls(*(environment.get(f"DAPO_TLS_{name}", "") for name in ("CA", "CERT", "KEY")))

    def context(self) -> ssl.SSLContext:
        """Raises SettingsError."""
        try:
            found = ssl.create_default_context(cafile=self.ca or None)
            if self.certificate:
                found.load_cert_chain(self.certificate, self.key or None)
        except OSError as error:
            raise SettingsError(f"TLS (DAPO_TLS_CA, DAPO_TLS_CERT, DAPO_TLS_KEY): {error}") from error
        return found


def service_url(text: str) -> httpx.URL:
    """Raises SettingsError where no service can be there."""
    try:
        url = httpx.URL(text)
        url.host.encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise _no_url(text) from error
    if url.scheme not in ("http", "https") or not url.host or (url.port or 0) > _LAST_PORT:
        raise _no_url(text)
    return url


def _no_url(text: str) -> SettingsError:
    shown = redact_url(text)
    return SettingsError(f"{shown!r} is no URL of a run service: give one such as {DEFAULT_URL} ({URL_VARIABLE})")


def authorisation(token: str) -> dict[str, str]:
    """The header of a token; none for "". Raises SettingsError for one that cannot stand in a header."""
    if not token:
        return {}
    if not (token.isascii() and token.isprintable()):
        raise SettingsError(f"the token ({TOKEN_VARIABLE}) is none: it has more than printable ASCII, e.g. a line end")
    return {"Authorization": f"Bearer {token}"}
