"""Which checkpoints a run has, and whether they are whole."""

from pathlib import Path
from typing import NamedTuple

from dapo.records.checkpoints import CheckpointError, file_sizes, list_marked, read_whole, step_and_epoch
from dapo.records.folder import RunFolder


class CheckpointView(NamedTuple):
    step: int
    """Finished steps."""
    directory: str
    size: int
    """Bytes of all its files."""
    damage: str
    """What is the matter with it; empty where it is whole."""


def checkpoints(run_dir: Path) -> list[CheckpointView]:
    """Those that count, the newest first. Raises CheckpointError for a marker that cannot be read, OSError."""
    return [_view(directory) for directory in list_marked(RunFolder(run_dir).checkpoints)]


def _view(directory: Path) -> CheckpointView:
    try:
        read_whole(directory)
        damage = ""
    except CheckpointError as error:
        damage = str(error)
    size = sum(file_sizes(directory).values()) if directory.is_dir() else 0
    return CheckpointView(step_and_epoch(directory.name)[0], directory.name, size, damage)
