"""Which run a folder holds: run.json."""

import fcntl
import json
import os
from pathlib import Path
from typing import NamedTuple

from dapo.host.files import write_json
from dapo.records.folder import RunFolder


class RunDirError(ValueError):
    """The run folder cannot be used."""


class RunIdentity(NamedTuple):
    run_id: str
    created_at: str
    """ISO 8601, UTC."""
    taken_up: bool = False
    """A run service that starts goes on with the run, where the one before has not brought it to an end."""


class FolderLock:
    """One process at a time works in a run's folder. Raises RunDirError where another one does."""

    def __init__(self, run_dir: Path) -> None:
        self._descriptor = os.open(RunFolder(run_dir).identity, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise RunDirError(f"{run_dir}: the run goes on, in another run service on this machine") from None

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
        return RunIdentity(**json.loads(folder.identity.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RunDirError(f"{run_dir} holds a run of an older release, without run.json: it cannot go on") from None
    except (ValueError, TypeError) as error:
        raise RunDirError(f"{folder.identity} cannot be read: {error}") from error
