"""The run service as a child process of the command line."""

import json
import os
import secrets
import signal
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from dapo.cli.children import SAFE_PATH
from dapo.client import ServiceError
from dapo.environment import TOKEN_VARIABLE
from dapo.host.files import tail
from dapo.host.processes import child_environment, python_command

_END_S = 20.0


class EmbeddedService:
    """`python -m services.orchestrator` as a child in a session of its own: Ctrl-C reaches only the command line.

    It dies with this process. Its log starts in `logs` and is moved to the run's logs once there is a run.
    """

    def __init__(self, state_dir: Path, logs: Path) -> None:
        """Its runs lie below `state_dir`. Raises ServiceError, with the end of its log, when it does not start; OSError
        where `logs` cannot be written."""
        logs.mkdir(parents=True, exist_ok=True)
        self._log = logs / f".orchestrator-{os.getpid()}.log"
        self._notice: Path | None = None
        self.token = secrets.token_urlsafe(24)
        options = ("--die-with-parent", "--embedded", "--state-dir", str(state_dir))
        command = python_command("services.orchestrator", *options)
        env = child_environment({**SAFE_PATH, TOKEN_VARIABLE: self.token})
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
            raise ServiceError(f"the run service ended with exit code {code}\n{tail(self._log)}")
        ready = json.loads(line)
        return f"http://{ready['host']}:{ready['port']}"

    def move_log(self, path: Path) -> None:
        """The open log goes on under its new name."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self._log.replace(path)
        self._log = path

    def say_where(self, path: Path) -> None:
        """Write to `path`, for its owner alone, how the service is asked, until it ends. Raises OSError."""
        self._notice = path
        with open(path, "w", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            json.dump({"url": self.url, "token": self.token}, file)

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
        if self._notice is not None:
            self._notice.unlink(missing_ok=True)
        if self._log.name.startswith("."):
            self._log.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
