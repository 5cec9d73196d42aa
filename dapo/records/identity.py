"""Which run a folder holds: run.json."""

import json
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
