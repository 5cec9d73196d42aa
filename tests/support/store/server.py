"""moto's S3 server, a process on loopback, and a gate before it that answers as a failing one does.

moto is installed apart (.venv/s3, by `make install`): its botocore and the package kubernetes want other releases of
python-dateutil.
"""

import contextlib
import os
import re
import shutil
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dapo.host.ports import free_port
from tests.support.paths import REPO

BUCKET = "checkpoints"
RUN_URL = f"s3://{BUCKET}/runs/one"
_START_S = 60.0
_SCOPE = "Credential=key/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"


def moto_server() -> str | None:
    """Its command; None where it is not installed."""
    named = os.environ.get("DAPO_TEST_MOTO_SERVER")
    installed = REPO / ".venv/s3/bin/moto_server"
    return named or (str(installed) if installed.exists() else shutil.which("moto_server"))


class S3:
    """A server with one bucket. It keeps objects in its memory."""

    def __init__(self, log: Path, **variables: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log.open("ab")
        command = [str(moto_server()), "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(
            command, stdout=self._log, stderr=self._log, env={**os.environ, "no_proxy": "*", **variables}
        )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            assert self._process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, "moto does not answer"
            time.sleep(0.1)

    def _answers(self) -> bool:
        try:
            self.ask("GET", "/moto-api/data.json")
        except OSError:
            return False
        return True

    def ask(self, method: str, path: str, body: bytes | None = None, scope: str = _SCOPE) -> bytes:
        """Signed by nobody: moto asks for no signature unless it is told to."""
        request = urllib.request.Request(
            self.url + path, body, {"Authorization": f"AWS4-HMAC-SHA256 {scope}"}, method=method
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
            return bytes(answer.read())

    def make_bucket(self) -> None:
        self.ask("PUT", f"/{BUCKET}")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()


@contextlib.contextmanager
def serving(log: Path, **variables: str) -> Iterator[S3]:
    server = S3(log, **variables)
    try:
        yield server
    finally:
        server.kill()


Rule = Callable[[str, str], tuple[int, str] | None]
"""By method and path: the status and S3's code of a refusal; status 0 breaks the connection. None: it is passed on."""


class Gate:
    """Passes requests on to a server, but those that a rule refuses."""

    def __init__(self, server: S3) -> None:
        self.rule: Rule = lambda method, path: None
        self.seen: list[tuple[str, str]] = []
        gate = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def pass_on(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                gate.seen.append((self.command, self.path))
                refusal = gate.rule(self.command, self.path)
                if refusal is not None and refusal[0] == 0:
                    self.close_connection = True
                    return
                if refusal is not None:
                    status, code = refusal
                    self.answer(status, {}, f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode())
                    return
                inner = HTTPConnection("127.0.0.1", server.port, timeout=30)
                try:
                    inner.request(self.command, self.path, body, dict(self.headers))
                    answer = inner.getresponse()
                    headers = {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}
                    self.answer(answer.status, headers, answer.read())
                except OSError:
                    self.close_connection = True
                finally:
                    inner.close()

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = pass_on  # noqa: N815

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


_HOP = {"content-length", "transfer-encoding", "connection", "date", "server"}


def environment(url: str) -> dict[str, str]:
    """Of whoever speaks to that server."""
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-store",
        "AWS_REGION": "us-east-1",
        "no_proxy": "127.0.0.1",
        "NO_PROXY": "127.0.0.1",
    }


def denied_user(server: S3) -> dict[str, str]:
    """Keys of a user who may do nothing: two requests."""
    scope = "Credential=key/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=0"
    for action in ("CreateUser", "CreateAccessKey"):
        made = server.ask("POST", "/", f"Action={action}&UserName=nobody&Version=2010-05-08".encode(), scope).decode()
    keys = [re.search(f"<{tag}>([^<]+)<", made) for tag in ("AccessKeyId", "SecretAccessKey")]
    return dict(zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), (key[1] for key in keys if key), strict=True))
