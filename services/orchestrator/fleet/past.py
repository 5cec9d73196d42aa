"""Folders of runs, and what those of earlier services tell of them."""

import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from dapo.bus.keys import is_run_id
from dapo.host.remembered import Remembered
from dapo.records.folder import RunFolder
from dapo.records.identity import RunDirError, RunIdentity, read_identity
from dapo.v1 import run_pb2 as pb
from services.orchestrator.fleet.errors import BadField
from services.orchestrator.runs.outcome import read_summary

_NAMES = RunFolder(Path())
_TOLD_BY = (_NAMES.identity.name, _NAMES.spec.name, _NAMES.summary.name)
"""Files of a folder that say what is told of its run."""
_MOST_REMEMBERED = 20_000
"""Runs; a kilobyte or two each."""


def folder_below(state_dir: Path, run_dir: str) -> Path:
    """The folder itself, links followed: who may start runs may not write wherever the service may. Raises BadField for
    one that is not below the service's directory, OSError."""
    root = state_dir.resolve()
    try:
        folder = (root / run_dir).resolve()
    except ValueError as error:
        raise BadField("run_dir", f"is no path: {error}", run_dir) from None
    if folder == root or not folder.is_relative_to(root):
        raise BadField(
            "run_dir",
            "is not below the service's directory (dapo serve --state-dir). Give a relative path "
            "without .. or links that lead out, e.g. runs/first",
            run_dir,
        )
    if taken := _containing_run(root, folder):
        raise BadField("run_dir", f"lies in the folder of another run, {taken}. Take another place", run_dir)
    return folder


def run_folders(root: Path) -> list[Path]:
    """Folders of runs below a service's directory, the way that a service makes them: three levels deep at most."""
    return sorted(path for folder in _places(root) if RunFolder(path := Path(folder)).identity.exists())


def _places(root: Path) -> Iterator[str]:
    """Where a run may be: the folder itself, and folders in it and in those."""
    yield str(root)
    for folder in _folders(str(root)):
        yield folder
        yield from _folders(folder)


def _folders(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return [entry.path for entry in entries if entry.is_dir()]
    except OSError:  # It has gone meanwhile, or is not for this service.
        return []


def _containing_run(root: Path, folder: Path) -> Path | None:
    """The folder of a run, below `root`, that `folder` would lie in."""
    between = [parent for parent in folder.parents if parent != root and parent.is_relative_to(root)]
    return next((parent for parent in between if RunFolder(parent).spec.exists()), None)


class PastRuns:
    """All that folders tell of runs. What has not changed since it was read last is not read again."""

    def __init__(self, root: Path) -> None:
        """`root`: the service's directory."""
        self._root = root
        self._views = Remembered(past_run, _TOLD_BY, _MOST_REMEMBERED)
        self._folders: dict[str, str] = {}
        """By id of a run, where it was seen last."""

    def list(self) -> list[pb.Run]:
        """By folder. For others to read only."""
        places = sorted(_places(self._root.resolve()))
        found = {place: run for place in places if (run := self._view(place)) is not None}
        self._views.keep_only(found)
        self._folders = {run.id: place for place, run in reversed(found.items())}
        return [*found.values()]

    def find(self, run_id: str) -> Path | None:
        """The folder of the run of that id, if there is one."""
        return self._remembered(run_id) or (self._remembered(run_id) if self.list() else None)

    def rest(self, run_id: str) -> Path | None:
        """What `delete_folder` has left of the run of that id, where its folder is the one that a service gives it."""
        folder = self._root.resolve() / "runs" / run_id
        if not is_run_id(run_id) or not RunFolder(folder).spec.is_file():
            return None
        return folder if set(folder.iterdir()) <= _left(folder) else None

    def _remembered(self, run_id: str) -> Path | None:
        place = self._folders.get(run_id)
        run = self._view(place) if place is not None else None
        return Path(place) if place is not None and run is not None and run.id == run_id else None

    def _view(self, place: str) -> pb.Run | None:
        try:
            return self._views.get(place)
        except (RunDirError, OSError):  # half written, or not a run's
            return None


def past_run(folder: Path) -> pb.Run:
    """Raises RunDirError, OSError."""
    return _view(folder, read_identity(folder))


def delete_folder(folder: Path, *, checkpoints: bool) -> None:
    """What a run has written; without `checkpoints` all but those, the exports and the spec, so that they can be used.

    Its identity goes first: then no service knows of it, and none goes on with what is left. Raises OSError.
    """
    files = RunFolder(folder)
    files.identity.unlink()
    models = {path for path in (files.checkpoints, files.exports) if path.is_dir() and not checkpoints}
    kept = models | {files.spec} if models else set()
    _clear(path for path in folder.iterdir() if path not in kept)
    if not kept:
        folder.rmdir()


def delete_rest(folder: Path) -> None:
    """What `PastRuns.rest` has found; the spec last, by which it is found again where this was cut short. Raises
    OSError."""
    spec = RunFolder(folder).spec
    _clear(path for path in folder.iterdir() if path != spec)
    spec.unlink()
    folder.rmdir()


def _clear(paths: Iterable[Path]) -> None:
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _left(folder: Path) -> set[Path]:
    files = RunFolder(folder)
    return {files.checkpoints, files.exports, files.spec}


def _view(folder: Path, identity: RunIdentity) -> pb.Run:
    summary = read_summary(folder)
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
