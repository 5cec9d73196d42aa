"""TLS of both faces, by the paths of certificates, which are read again when they change."""

import logging
import ssl
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from dapo.host.remembered import FileState, file_state, is_settled

log = logging.getLogger(__name__)


class BadCertificate(ValueError):
    """Certificate, key or CA cannot be used; the message names the file."""


class _Loaded(NamedTuple):
    context: ssl.SSLContext
    grpc: Any
    """As gRPC takes it."""


class Tls:
    """The service's certificate for both faces. Each new connection gets what the files hold by then; where that cannot
    be used, what they held before. Connections that are open keep theirs.

    Restart: what the files hold is used, or refused.
    """

    def __init__(self, certificate: Path, key: Path, client_ca: Path | None = None) -> None:
        """PEM files: the certificate with what leads to its CA, and its key. `client_ca`: clients must have a
        certificate of this CA (mutual TLS), beside their token. Raises BadCertificate."""
        self._certificate, self._key, self._client_ca = certificate, key, client_ca
        # gRPC asks from threads of its own.
        self._lock = threading.Lock()
        self._seen: tuple[FileState | None, ...] | None = self._states()
        self._loaded = self._load()
        self._trouble = ""

    def rest(self) -> ssl.SSLContext:
        """One that hands each connection on to that of the certificate of this moment."""
        context = self._loaded.context

        def choose(connection: ssl.SSLObject, name: str | None, first: ssl.SSLContext) -> None:
            connection.context = self._current().context

        # Called at each handshake, also of clients that name no server.
        context.sni_callback = choose
        return context

    def grpc(self) -> grpc.ServerCredentials:
        mutual = self._client_ca is not None
        return grpc.dynamic_ssl_server_credentials(self._loaded.grpc, lambda: self._current().grpc, mutual)

    def _current(self) -> _Loaded:
        with self._lock:
            now_ns, states = time.time_ns(), self._states()
            if states == self._seen:
                return self._loaded
            try:
                loaded, trouble = self._load(), ""
            except BadCertificate as error:
                loaded, trouble = self._loaded, str(error)
            if states != self._states():
                return self._loaded  # They are being changed: whoever connects next looks again.
            self._tell(trouble, new=loaded is not self._loaded)
            self._loaded, self._trouble = loaded, trouble
            # What has changed just now may change once more without a trace.
            self._seen = states if is_settled(states, now_ns) else None
            return loaded

    def _tell(self, trouble: str, *, new: bool) -> None:
        if trouble and trouble != self._trouble:
            log.error("the certificate before stays in use, as the new one cannot be used: %s", trouble)
        elif new and self._seen is not None:
            log.info("the certificate %s was read again", self._certificate)

    def _states(self) -> tuple[FileState | None, ...]:
        return tuple(file_state(path) for path in (self._certificate, self._key, self._client_ca) if path is not None)

    def _load(self) -> _Loaded:
        """Raises BadCertificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._certificate, self._key, password=_no_password)
            pair = (self._key.read_bytes(), self._certificate.read_bytes())
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise BadCertificate(f"--tls-cert {self._certificate}, --tls-key {self._key}: {error}") from error
        roots = None
        if self._client_ca is not None:
            try:
                context.load_verify_locations(self._client_ca)
                roots = self._client_ca.read_bytes()
            except OSError as error:
                raise BadCertificate(f"--tls-client-ca {self._client_ca}: {error}") from error
            context.verify_mode = ssl.CERT_REQUIRED
            # A session that goes on is not checked against the CA again, which may have been removed since. TLS 1.2
            # has sessions without tickets, too, which the module cannot switch off. gRPC's die with what it is given.
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            context.num_tickets = 0
        return _Loaded(context, grpc.ssl_server_certificate_configuration([pair], roots))


def _no_password() -> str:
    raise BadCertificate("the key is encrypted: give one without a passphrase, in a file of mode 600")
