"""Runs of earlier services, as their folders tell of them."""

import json
from pathlib import Path
from typing import Any

from dapo.records.folder import RunFolder
from dapo.records.identity import RunDirError, RunIdentity, read_identity
from dapo.v1 import run_pb2 as pb
from services.orchestrator.runs.outcome import INTERRUPTED


def run_folders(root: Path) -> list[Path]:
    """Folders of runs below a service's directory, the way that a service makes them: three levels deep at most."""
    patterns = ("run.json", "*/run.json", "*/*/run.json")
    return sorted({path.parent for pattern in patterns for path in root.glob(pattern)})


def find_folder(root: Path, run_id: str) -> Path | None:
    """The folder of the run of that id, if there is one."""
    return next((folder for folder, identity in _identities(root) if identity.run_id == run_id), None)


def past_runs(root: Path) -> list[pb.Run]:
    """All that can be told of."""
    return [_view(folder, identity) for folder, identity in _identities(root)]


def past_run(folder: Path) -> pb.Run:
    """Raises RunDirError, OSError."""
    return _view(folder, read_identity(folder))


def was_interrupted(folder: Path) -> bool:
    """Whether a run that services take up ended with its service: that was shut down, or had no time to write an end.
    Raises RunDirError, OSError."""
    if not read_identity(folder).taken_up:
        return False
    summary = _summary(folder)
    return summary is None or (summary["state"], summary["message"]) == INTERRUPTED


def has_succeeded(folder: Path) -> bool:
    summary = _summary(folder)
    return summary is not None and summary["state"] == "succeeded"


def _identities(root: Path) -> list[tuple[Path, RunIdentity]]:
    found = []
    for folder in run_folders(root):
        try:
            found.append((folder, read_identity(folder)))
        except (RunDirError, OSError):  # half written, or not a run's
            continue
    return found


def _view(folder: Path, identity: RunIdentity) -> pb.Run:
    summary = _summary(folder)
    if summary is None:
        return pb.Run(
            id=identity.run_id,
            state="RUN_STATE_STOPPED",
            run_dir=str(folder),
            message="its run service ended before it; nobody goes on with it",
            created_at=identity.created_at,
        )
    return pb.Run(
        id=identity.run_id,
        state=f"RUN_STATE_{summary['state'].upper()}",
        run_dir=str(folder),
        message=summary["message"],
        step=summary["steps"],
        steps_total=summary["steps_total"],
        created_at=identity.created_at,
        ledger=summary["ledger"],
    )


def _summary(folder: Path) -> dict[str, Any] | None:
    """None where there is none that can be read, as of a run that had no end."""
    try:
        found: dict[str, Any] = json.loads(RunFolder(folder).summary.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return found
