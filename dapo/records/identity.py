"""Which run a folder holds: run.json."""

import fcntl
import json
import os
import re
import secrets
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from dapo.host.files import write_json
from dapo.records.folder import RunFolder

_ID = re.compile(r"(?P<name>.+)-\d{8}-\d{6}-[0-9a-f]{4}")


def new_run_id(name: str, now: datetime) -> str:
    """<name>-<YYYYmmdd-HHMMSS>-<4 hex digits>, the time in UTC."""
    return f"{name}-{now:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def name_of(run_id: str) -> str:
    """`name` of the spec that the run was started with."""
    match = _ID.fullmatch(run_id)
    return match["name"] if match else run_id


class RunDirError(ValueError):
    """The run folder cannot be used."""


class RunIdentity(NamedTuple):
    run_id: str
    created_at: str
    """ISO 8601, UTC."""
    taken_up: bool = False
    """Run services list the run; where the Redis with their list is lost, one that starts goes on with it if the one
    before has not brought it to an end."""
    history: str = ""
    """What the Redis that has the run's latest word knows as its history, too; drawn anew whenever the run begins or
    goes on elsewhere, or from a checkpoint. Empty in those of older releases."""
    begun: bool = True
    """Not of a run that has waited for room ever since it was created."""
    queued_at: str = ""
    """Since when it waits for room to start or to go on, as `created_at`; empty where it does not."""
    on_gpus: bool = False
    """The machine that led it last, or had it wait, counts it with GPUs: only one that has some goes on with it."""


class FolderLock:
    """Who may work in a run's folder, on this machine. Raises RunDirError where another process does.

    Services that share a Redis also share the folder: there the run's lease says which of them works in it, and wins
    over one that is frozen. Any other process has the folder alone.
    """

    def __init__(self, run_dir: Path, *, shared: bool = False) -> None:
        """`shared`: with the services that share this one's Redis."""
        self._run_dir = run_dir
        self._descriptor = os.open(RunFolder(run_dir).lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            self._lock(fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        except RunDirError:
            os.close(self._descriptor)
            raise

    def make_exclusive(self) -> None:
        """Raises RunDirError where another process has the folder, too."""
        self._lock(fcntl.LOCK_EX)

    def _lock(self, kind: int) -> None:
        try:
            fcntl.flock(self._descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunDirError(f"{self._run_dir}: the run goes on, in another run service on this machine") from None

    def release(self) -> None:
        os.close(self._descriptor)


def write_identity(run_dir: Path, identity: RunIdentity) -> None:
    """Raises OSError."""
    write_json(RunFolder(run_dir).identity, identity._asdict())


def read_identity(run_dir: Path) -> RunIdentity:
    """Raises RunDirError where the folder holds no run, or not one that can be continued; OSError."""
    folder = RunFolder(run_dir)
    if not folder.spec.exists():
        raise RunDirError(f"{run_dir} holds no run: there is no spec.yaml in it")
    try:
        stored = json.loads(folder.identity.read_text(encoding="utf-8"))
        return RunIdentity(**{name: value for name, value in stored.items() if name in RunIdentity._fields})
    except FileNotFoundError:
        raise RunDirError(f"{run_dir} holds a run of an older release, without run.json: it cannot go on") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise RunDirError(f"{folder.identity} cannot be read: {error}") from error
