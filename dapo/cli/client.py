"""The run service as a client sees it: an embedded one as a child process, and its REST interface."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import httpx

from dapo.cli.children import SAFE_PATH
from dapo.host.processes import PARENT_VARIABLE

_CONNECT_S = 10.0
_STOP_S = 60.0
_END_S = 20.0
_LOG_LINES = 30


class ServiceError(RuntimeError):
    """The run service refused a request, could not start, or went away."""


class RefusedRequest(ServiceError):
    """The service answered with a client error; the message is its own."""


class Event(NamedTuple):
    id: str
    kind: str
    data: dict[str, Any]


class RunClient:
    """Runs over REST."""

    def __init__(self, base_url: str, token: str) -> None:
        self._http = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=httpx.Timeout(_CONNECT_S, read=_STOP_S),
            trust_env=False,
        )

    def close(self) -> None:
        self._http.close()

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ServiceError(f"the run service does not answer: {error}") from error
        if response.is_client_error:
            raise RefusedRequest(response.json()["error"]["message"])
        if response.is_error:
            raise ServiceError(f"the run service answered {response.status_code}: {response.text.strip()}")
        value: dict[str, Any] = response.json()
        return value

    def create(self, spec_yaml: str, run_dir: str) -> dict[str, Any]:
        return self._call("POST", "/v1/runs", {"spec": spec_yaml, "run_dir": run_dir})

    def get(self, run_id: str) -> dict[str, Any]:
        return self._call("GET", f"/v1/runs/{run_id}")

    def stop(self, run_id: str) -> dict[str, Any]:
        """Returns once the run's processes are gone."""
        return self._call("POST", f"/v1/runs/{run_id}/stop")

    def events(self, run_id: str) -> Iterator[Event]:
        """All events from the first until the run ends. Raises ServiceError when the service goes away."""
        timeout = httpx.Timeout(_CONNECT_S, read=None)
        try:
            with self._http.stream("GET", f"/v1/runs/{run_id}/events", timeout=timeout) as response:
                response.raise_for_status()
                yield from _parse_events(response.iter_lines())
        except httpx.HTTPError as error:
            raise ServiceError(f"the run service went away: {error}") from error


def _parse_events(lines: Iterator[str]) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield Event(fields["id"], fields["event"], json.loads(fields["data"]))
            fields = {}


class EmbeddedService:
    """`python -m services.orchestrator` as a child in a session of its own: Ctrl-C reaches only the command line.

    It dies with this process. Its log starts in `folder` and is moved to the run's logs once there is a run.
    """

    def __init__(self, folder: Path) -> None:
        """Raises ServiceError, with the end of its log, when it does not start."""
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f".orchestrator-{os.getpid()}.log"
        self.token = secrets.token_urlsafe(24)
        command = [sys.executable, "-m", "services.orchestrator", "--die-with-parent"]
        env = {**os.environ, **SAFE_PATH, "DAPO_API_TOKEN": self.token, PARENT_VARIABLE: str(os.getpid())}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, env=env, start_new_session=True
            )
        try:
            self.url = self._read_url()
        except BaseException:
            self.close()
            raise

    def _read_url(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise ServiceError(f"the run service ended with exit code {code}\n{self.log_end()}")
        ready = json.loads(line)
        return f"http://{ready['host']}:{ready['port']}"

    def move_log(self, path: Path) -> None:
        """The open log goes on under its new name."""
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(self._log, path)
        self._log = path

    def log_end(self) -> str:
        return "\n".join(self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:])

    def close(self) -> None:
        """Ask it to stop its runs and end; kill it when it does not."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        if self._log.name.startswith("."):
            self._log.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
