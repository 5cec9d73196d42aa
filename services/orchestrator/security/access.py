"""Who asks, and what they may do: one table of scopes for REST and gRPC."""

import hmac
import ipaddress
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from dapo.environment import TOKEN_VARIABLE
from dapo.host.remembered import FileState, file_state
from dapo.tokens import Scope, Token, TokenError, digest, read_tokens

log = logging.getLogger(__name__)

SCOPES: Mapping[str, Scope] = {
    "who_am_i": Scope.READ,
    "list_runs": Scope.READ,
    "get_run": Scope.READ,
    "watch_run": Scope.READ,
    "explain_group": Scope.READ,
    "list_dead_letters": Scope.READ,
    "get_spec": Scope.READ,
    "get_metrics": Scope.READ,
    "get_pipeline": Scope.READ,
    "list_samples": Scope.READ,
    "list_evaluations": Scope.READ,
    "list_groups": Scope.READ,
    "get_machine": Scope.READ,
    "list_presets": Scope.READ,
    "get_spec_schema": Scope.READ,
    "validate_spec": Scope.READ,
    "list_checkpoints": Scope.READ,
    "list_exports": Scope.READ,
    "read_export_file": Scope.READ,
    "list_logs": Scope.READ,
    "read_metrics": Scope.READ,
    "list_metrics_targets": Scope.READ,
    "tail_logs": Scope.READ,
    "create_run": Scope.RUN,
    "resume_run": Scope.RUN,
    "stop_run": Scope.RUN,
    "update_run": Scope.RUN,
    "cancel_run": Scope.RUN,
    "export_run": Scope.RUN,
    "requeue_group": Scope.RUN,
    "purge_run": Scope.ADMIN,
    "delete_run": Scope.ADMIN,
}
"""What each operation wants. Its name is that of the function of a REST route, and of the gRPC method (CreateRun is
create_run)."""
_SHORTEST = 16
"""Characters of DAPO_API_TOKEN where it is all that protects a service that others can reach."""


UNKNOWN_TOKEN = (
    "this token is not known here: it was revoked, or is of another service. Ask whoever runs the service for one "
    "(dapo tokens add NAME)"
)


class UnsafeBind(ValueError):
    """The service would listen beyond this machine without a token."""


class Unauthorised(Exception):
    """The bearer token is missing or wrong."""


class Forbidden(Exception):
    """The token does not reach so far, or the request comes from another site."""


class Caller(NamedTuple):
    """Who asks."""

    name: str
    """Of the token; empty where none is needed."""
    scope: Scope
    address: str = ""
    """Whence, without the port."""


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def authorise(caller: Caller, operation: str) -> None:
    """Raises Forbidden."""
    wanted = SCOPES[operation]
    if not caller.scope.covers(wanted):
        raise Forbidden(
            f"{operation} wants a token of scope {wanted}, and {caller.name} has {caller.scope}: ask whoever runs the "
            f"service for one (dapo tokens add NAME --scope {wanted})"
        )


class Access:
    """The tokens of a service: DAPO_API_TOKEN, which may do everything, and those of a file.

    The file is read anew when it changes. While it cannot be read, none of its tokens is taken. Without any token
    everybody may do everything, which `check_bind` allows on loopback only; once there was one, one is wanted.
    """

    def __init__(self, token: str = "", path: Path | None = None) -> None:
        """Raises TokenError for a file that cannot be used."""
        self._own = [Token(TOKEN_VARIABLE, Scope.ADMIN, digest(token), "")] if token else []
        self._length = len(token)
        self._path = path
        self._seen: FileState | None = None
        self._named: list[Token] = []
        self._needed = bool(self._own)
        self._read(strict=True)

    def check_bind(self, host: str) -> None:
        """Raises UnsafeBind for another host than loopback without a token, or with one that can be guessed."""
        if is_loopback(host):
            return
        if not self.needed:
            raise UnsafeBind(
                f"--host {host} is not loopback: make a token (dapo tokens add NAME), or set {TOKEN_VARIABLE} to a "
                "secret that clients send as a bearer token, or bind to 127.0.0.1"
            )
        if self._own and self._length < _SHORTEST:
            raise UnsafeBind(
                f"--host {host} is not loopback, and {TOKEN_VARIABLE} has only {self._length} characters: give it "
                f"{_SHORTEST} or more, or unset it and use dapo tokens"
            )

    @property
    def needed(self) -> bool:
        """Whether a token is wanted."""
        self._read()
        return self._needed

    def identify(self, header: str | None, address: str = "") -> Caller:
        """Of an Authorization header. Raises Unauthorised."""
        if not self.needed:
            return Caller("", Scope.ADMIN, address)
        scheme, _, secret = (header or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthorised("send the service's token as 'Authorization: Bearer <token>'")
        token = self.find(secret.strip())
        if token is None:
            raise Unauthorised(UNKNOWN_TOKEN)
        return Caller(token.name, token.scope, address)

    def find(self, secret: str) -> Token | None:
        """The token of that text. Takes as long whichever it is."""
        given, found = digest(secret), None
        for token in self._tokens():
            if hmac.compare_digest(token.sha256, given):
                found = token
        return found

    def named(self, name: str) -> Token | None:
        return next((token for token in self._tokens() if token.name == name), None)

    def _tokens(self) -> list[Token]:
        self._read()
        return [*self._own, *self._named]

    def _read(self, *, strict: bool = False) -> None:
        seen = file_state(self._path) if self._path is not None else None
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._named = read_tokens(self._path) if self._path is not None else []
        except TokenError as error:
            if strict:
                raise
            log.error("none of the tokens is taken: %s", error)
            self._named = []
        self._needed = self._needed or seen is not None
