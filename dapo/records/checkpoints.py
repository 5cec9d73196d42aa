"""A run's checkpoints, as they lie in RUN_DIR/checkpoints: which there are, which count, and whether they are whole.

    step-000020.e3/               written by the learner of fencing epoch 3, after 20 steps
    step-000020.e3/manifest.json  what it stands for, and the size of every file
    latest.e3.json                the marker of epoch 3: the directories that count, newest first

What no marker names does not exist. Of several markers that of the newest epoch goes first.

A learner makes directories of its own epoch and replaces the marker of its own epoch, nothing else. So one that was
replaced, and wakes up in the middle of a write, can neither change a checkpoint of its successor nor take its marker
away, and no lock is needed: all that this asks of a shared file system is that mkdir fails where the name exists and
that a rename within a folder is atomic. What other hosts see of it, and when, is up to that file system.

Whole means: every file of the manifest is there in its size. What is in the files is not checked.
"""

import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from dapo.host.files import sync, write_json

_FORMAT = 1
MANIFEST = "manifest.json"
_DIRECTORY = re.compile(r"step-(?P<step>\d+)(?:\.e(?P<epoch>\d+))?")
_MARKER = re.compile(r"latest(?:\.e(?P<epoch>\d+))?\.json")


class ExportDtype(StrEnum):
    """Of the weights of an exported model."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"
    AS_BASE = "as-base"
    """That of the base model."""


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the message says why and what to do."""


class CheckpointDamaged(CheckpointError):
    """Files of a checkpoint are not as they were written; the message says which."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint holds. `step` finished steps: batches 0 … step − 1 are trained into it."""

    step: int
    incarnation: int
    """Fencing epoch of the learner that wrote it."""
    seed: int
    world_size: int
    zero_stage: int
    dtype: str
    files: dict[str, int]
    """Bytes of each file, by its path in the directory."""
    frontier: dict[str, Any] | None = None
    """What the run's data had come to (dapo.bus.parts.decisions.Frontier), so that it can go on where Redis is lost;
    None in checkpoints of older releases."""
    format: int = _FORMAT


class Checkpoint(NamedTuple):
    directory: Path
    manifest: Manifest


class Found(NamedTuple):
    """The newest whole checkpoint, and what is the matter with each that is newer."""

    checkpoint: Checkpoint | None
    damage: list[str]


def directory_name(step: int, epoch: int) -> str:
    """Of the checkpoint of `step` by the learner of `epoch`; 0 for those of releases whose names had no epoch."""
    return f"step-{step:06d}" + (f".e{epoch}" if epoch else "")


def step_and_epoch(name: str) -> tuple[int, int]:
    """Inverse of `directory_name`. Raises CheckpointError for the name of something else."""
    match = _DIRECTORY.fullmatch(name)
    if match is None:
        raise CheckpointError(f"{name} is no name of a checkpoint, e.g. {directory_name(20, 3)}")
    return int(match["step"]), int(match["epoch"] or 0)


def newest_epoch(root: Path) -> int:
    """Highest epoch that wrote anything in `root`; 0 where there is nothing."""
    matches = (pattern.fullmatch(path.name) for path in _entries(root) for pattern in (_DIRECTORY, _MARKER))
    return max((int(match["epoch"] or 0) for match in matches if match), default=0)


def _entries(root: Path) -> list[Path]:
    return list(root.iterdir()) if root.exists() else []


def _markers(root: Path) -> list[tuple[int, Path]]:
    """(epoch, path), the newest epoch first."""
    matches = ((_MARKER.fullmatch(path.name), path) for path in _entries(root))
    return sorted(((int(match["epoch"] or 0), path) for match, path in matches if match), reverse=True)


def list_marked(root: Path) -> list[Path]:
    """The directories that count, the newest first. Raises CheckpointDamaged for a marker that cannot be read."""
    names = [name for _, path in _markers(root) for name in _marked_by(path)]
    return [root / name for name in dict.fromkeys(names)]


def _marked_by(marker: Path) -> list[str]:
    found = _read_object(marker)
    names = found.get("checkpoints", [found.get("directory")])
    if not isinstance(names, list) or not all(isinstance(name, str) and _DIRECTORY.fullmatch(name) for name in names):
        raise CheckpointDamaged(f"{marker} does not name checkpoints; restore it, or remove it")
    return names


def _read_object(path: Path) -> dict[str, Any]:
    """Raises CheckpointDamaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointDamaged(f"{path} is missing") from None
    except ValueError as error:
        raise CheckpointDamaged(f"{path} is no JSON ({error})") from error
    if not isinstance(found, dict):
        raise CheckpointDamaged(f"{path} is no JSON object")
    return found


def read_whole(directory: Path) -> Checkpoint:
    """Raises CheckpointDamaged where its files are not as the manifest has them, CheckpointError for a manifest that
    another release of dapo wrote."""
    path = directory / MANIFEST
    written = _read_object(path)
    written.setdefault("frontier", None)
    if written.keys() != Manifest.__dataclass_fields__.keys() or written["format"] != _FORMAT:
        raise CheckpointError(
            f"{path} was written by another release of dapo (format {written.get('format')}, this one reads {_FORMAT} "
            "without further fields); go on with that release, or start a new run from the model in its folder hf"
        )
    manifest = Manifest(**written)
    found = file_sizes(directory)
    wrong = [name for name, size in manifest.files.items() if found.get(name) != size]
    if wrong:
        name, more = wrong[0], f" (and {len(wrong) - 1} more files)" if len(wrong) > 1 else ""
        bytes_there = f"{found[name]} bytes" if name in found else "missing"
        raise CheckpointDamaged(
            f"{directory / name}: {bytes_there}, the manifest says {manifest.files[name]} bytes{more}"
        )
    return Checkpoint(directory, manifest)


def file_sizes(directory: Path) -> dict[str, int]:
    """Bytes of each file in it, by its path from there."""
    return {str(p.relative_to(directory)): p.stat().st_size for p in sorted(directory.rglob("*")) if p.is_file()}


def find_newest(root: Path) -> Found:
    """Raises CheckpointDamaged for a marker that cannot be read, CheckpointError as `read_whole` does."""
    damage: list[str] = []
    for directory in list_marked(root):
        try:
            return Found(read_whole(directory), damage)
        except CheckpointDamaged as error:
            damage.append(str(error))
    return Found(None, damage)


def newest_written(root: Path) -> tuple[int, float] | None:
    """Steps of the newest checkpoint that counts, and the Unix time at which it was written; None where there is none.
    Raises CheckpointDamaged for a marker that cannot be read, OSError."""
    for directory in list_marked(root):
        with suppress(FileNotFoundError):
            return step_and_epoch(directory.name)[0], (directory / MANIFEST).stat().st_mtime
    return None


def find_step(root: Path, step: int) -> Checkpoint:
    """The checkpoint of that step. Raises CheckpointError, which lists the steps that there are, where it is none of
    them, and as `read_whole` does."""
    marked = list_marked(root)
    for directory in marked:
        if step_and_epoch(directory.name)[0] == step:
            return read_whole(directory)
    steps = sorted({step_and_epoch(directory.name)[0] for directory in marked})
    kept = f"those kept are of the steps {', '.join(map(str, steps))}" if steps else "there is none yet"
    raise CheckpointError(f"{root} has no checkpoint of step {step}: {kept}. See checkpoint.keep_every_steps")


def write_manifest(directory: Path, manifest: Manifest) -> None:
    """Everything in `directory`, the manifest last, is on the disk when this returns, and so are the folders that lead
    there. Raises OSError."""
    for path in directory.rglob("*"):
        sync(path)
    write_json(directory / MANIFEST, asdict(manifest), durable=True)
    for folder in (directory.parent, directory.parent.parent):
        sync(folder)


def mark(root: Path, epoch: int, names: Sequence[str]) -> None:
    """Make those the directories that count, the newest first: on the disk when this returns. Raises OSError."""
    write_json(root / f"latest.e{epoch}.json", {"checkpoints": list(names)}, durable=True)


def retained(
    names: Sequence[str], *, last: int, every_steps: int | None = None, best_step: int | None = None
) -> list[str]:
    """Of the checkpoints `names`, the newest first, those to keep: the `last` newest, those of each multiple of
    `every_steps`, and that of `best_step`."""

    def stays(step: int) -> bool:
        return step == best_step or (every_steps is not None and step % every_steps == 0)

    return [name for place, name in enumerate(names) if place < last or stays(step_and_epoch(name)[0])]


def prune(root: Path, epoch: int, names: Sequence[str]) -> None:
    """Delete the directories and markers of `epoch` and of older ones, but those of `names` and the own marker.

    Only while `epoch` is the newest: then what older ones left behind cannot count any more. Raises OSError.
    """
    for path in _superfluous(root, epoch, names):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _superfluous(root: Path, epoch: int, names: Sequence[str]) -> Iterator[Path]:
    for path in _entries(root):
        directory = _DIRECTORY.fullmatch(path.name)
        if directory and path.name not in names and int(directory["epoch"] or 0) <= epoch:
            yield path
    yield from (path for older, path in _markers(root) if older < epoch)
