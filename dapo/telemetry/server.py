"""What a worker exports over HTTP, from threads of its own: it answers while the worker's loop is busy."""

import logging
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPException
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from dapo.telemetry import exposition

log = logging.getLogger(__name__)

METRICS_PORT = "DAPO_METRICS_PORT"
"""Environment variable of a worker: where it listens for scrapes; 0: on a free port, not set: nowhere."""
PATH, ENGINE_PATH = "/metrics", "/engine/metrics"
_CLIENT_S = 10.0
"""A client that is silent for longer is left."""
_ENGINE_S = 5.0
_LARGEST = 64 << 20
"""Bytes of what an engine exports."""
_TEXT = ("Content-Type", "text/plain; charset=utf-8")
# Loopback is never behind a proxy.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Headers = list[tuple[str, str]]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Without asking a name server for the name of the host, as WSGIServer does."""
        socket_server_bind(self)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Of a connection: a client may break its scrape off at any time."""
        log.debug("a scrape from %s was broken off", client_address, exc_info=True)


def socket_server_bind(server: WSGIServer) -> None:
    server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.socket.bind(server.server_address)
    server.server_address = server.socket.getsockname()
    server.server_name, server.server_port = str(server.server_address[0]), int(server.server_address[1])
    server.setup_environ()


class _Handler(WSGIRequestHandler):
    timeout = _CLIENT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Scrapes come every few seconds."""


class MetricsServer:
    """Answers GET `/metrics` with the instruments of this process and, of a generator, `/engine/metrics` with what its
    engine exports on loopback, where nobody else reaches it.

    It wants no token: it tells numbers, the run's id and the worker's. Ends with the process.
    """

    def __init__(self, address: str, port: int, labels: Mapping[str, str]) -> None:
        """`port` 0: a free one. `labels`: of every sample. Raises OSError where it cannot listen there."""
        self._labels = labels
        self.engine: Callable[[], str | None] = lambda: None
        """URL of the engine, while there is one."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = type("_Server", (_Server,), {"address_family": family})
        self._server: WSGIServer = make_server(address, port, self._answer, kind, _Handler)
        host = f"[{address}]" if family == socket.AF_INET6 else address
        self.address = f"{host}:{self._server.server_port}"
        """`host:port`, as it is announced."""
        threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: dict[str, Any], start: Callable[[str, Headers], Any]) -> Iterable[bytes]:
        path, method = request["PATH_INFO"], request["REQUEST_METHOD"]
        if path not in (PATH, ENGINE_PATH):
            return _say(start, "404 Not Found", f"there is {PATH} and, of a generator, {ENGINE_PATH}")
        if method != "GET":
            return _say(start, "405 Method Not Allowed", "ask with GET")
        if path == ENGINE_PATH:
            return self._ask_engine(start)
        answer = exposition.answer(exposition.families(self._labels), request.get("HTTP_ACCEPT_ENCODING", ""))
        start("200 OK", list(answer.headers.items()))
        return [answer.body]

    def _ask_engine(self, start: Callable[[str, Headers], Any]) -> Iterable[bytes]:
        if (url := self.engine()) is None:
            return _say(start, "503 Service Unavailable", "no engine runs here now")
        try:
            with _OPENER.open(f"{url}{PATH}", timeout=_ENGINE_S) as found:
                body = found.read(_LARGEST)
                content_type = found.headers.get("Content-Type", _TEXT[1])
                whole = not found.length  # what is left of Content-Length
        except (OSError, HTTPException) as error:
            return _say(start, "502 Bad Gateway", f"the engine does not answer: {error}")
        if not whole:
            return _say(start, "502 Bad Gateway", "the engine broke its answer off")
        start("200 OK", [("Content-Type", content_type)])
        return [body]


def _say(start: Callable[[str, Headers], Any], status: str, words: str) -> Iterable[bytes]:
    start(status, [_TEXT])
    return [f"{words}\n".encode()]
