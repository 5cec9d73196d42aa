"""The exports of a run, as they lie in RUN_DIR/exports.

    step-000020.e3-bfloat16/       whole: it got this name once all of it was on the disk
    step-000020.e3-bfloat16.json   what was asked for, and what became of it
    step-000020.e3-bfloat16.lock   locked by the service and the process that write it
    step-000020.e3-bfloat16.log    what that process said, while it goes on or where it failed
    .step-000020.e3-bfloat16.part  what is written so far; counts for nothing

The folder alone says that an export is there, and the lock that somebody writes it, so whoever dies leaves neither a
half one nor one that is waited for in vain.
"""

import fcntl
import json
import os
import re
import shutil
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from dapo.host.files import sync, write_json
from dapo.records.checkpoints import ExportDtype, file_sizes, step_and_epoch
from dapo.records.folder import RunFolder

ADAPTER = "adapter"
"""In place of a dtype: the LoRA adapter alone. It has the same name in a checkpoint."""
_FORMS = "|".join([*ExportDtype, ADAPTER])
_NAME = re.compile(rf"(?P<checkpoint>step-\d+(?:\.e\d+)?)-(?P<form>{_FORMS})")


class ExportNotFound(LookupError):
    """The run has no such export, or that has no such file."""


class ExportState(StrEnum):
    QUEUED = "queued"
    """Another one is written first."""
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    """Or broken off. Asked for again it is begun anew."""


UNDER_WAY = frozenset({ExportState.QUEUED, ExportState.RUNNING})


class Said(NamedTuple):
    """What is written down of an export, in its .json."""

    state: ExportState
    problem: str = ""
    """Why it failed; empty otherwise."""
    warning: str = ""
    """What whoever uses it should know; empty otherwise."""


class Export(NamedTuple):
    name: str
    step: int
    """Finished steps of its checkpoint."""
    form: str
    """A dtype, as it was asked for, or ADAPTER."""
    state: ExportState
    directory: str
    """On the service's machine; there once it has succeeded."""
    files: dict[str, int]
    """Bytes of each, once it has succeeded."""
    problem: str
    warning: str

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(self.files.values())


class Place(NamedTuple):
    """Where an export lies."""

    run_dir: Path
    checkpoint: str
    """Name of its directory: another learner's checkpoint of the same step makes another export."""
    form: str
    """A dtype, or ADAPTER."""

    @property
    def name(self) -> str:
        return f"{self.checkpoint}-{self.form}"

    @property
    def directory(self) -> Path:
        return RunFolder(self.run_dir).exports / self.name

    @property
    def scratch(self) -> Path:
        return self.directory.with_name(f".{self.name}.part")

    @property
    def log(self) -> Path:
        return self.directory.with_name(f"{self.name}.log")

    @property
    def _record(self) -> Path:
        return self.directory.with_name(f"{self.name}.json")

    @property
    def _lock(self) -> Path:
        return self.directory.with_name(f"{self.name}.lock")

    def say(self, said: Said) -> None:
        """Raises OSError."""
        write_json(self._record, said._asdict(), durable=True)

    def lock(self) -> int | None:
        """A descriptor that has the lock until it and its copies are closed; None where another one has it. Raises
        OSError."""
        descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        if _try(descriptor, fcntl.LOCK_EX):
            return descriptor
        os.close(descriptor)
        return None

    def clear(self) -> None:
        """Remove what a process that was killed has left. Raises OSError."""
        if self.scratch.exists():
            shutil.rmtree(self.scratch)

    def complete(self) -> None:
        """What was written counts from now on, on the disk. Raises OSError."""
        for path in (self.scratch, *self.scratch.rglob("*")):
            sync(path)
        self.scratch.rename(self.directory)
        sync(self.directory.parent)

    def read(self) -> Export:
        """Of one that nobody has asked for, FAILED."""
        step, _ = step_and_epoch(self.checkpoint)
        there, said = self.directory.is_dir(), self._said()
        if there:
            state, problem = ExportState.SUCCEEDED, ""
        elif said.state in UNDER_WAY and self._is_locked():
            state, problem = said.state, ""
        else:
            state, problem = ExportState.FAILED, said.problem or _BROKEN_OFF
        files = file_sizes(self.directory) if there else {}
        return Export(self.name, step, self.form, state, str(self.directory), files, problem, said.warning)

    def _said(self) -> Said:
        try:
            found = json.loads(self._record.read_text(encoding="utf-8"))
            return Said(ExportState(found["state"]), str(found["problem"]), str(found["warning"]))
        except (OSError, ValueError, TypeError, KeyError):
            return Said(ExportState.FAILED)

    def _is_locked(self) -> bool:
        try:
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return not _try(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(descriptor)


_BROKEN_OFF = "whoever wrote it has ended meanwhile, or its folder was removed: ask for it again"


def exports(run_dir: Path) -> list[Export]:
    """All that were asked for, those of the newest step first. Raises OSError."""
    folder = RunFolder(run_dir).exports
    if not folder.is_dir():
        return []
    matches = [_NAME.fullmatch(path.name.removesuffix(".json")) for path in folder.iterdir()]
    names = {(match["checkpoint"], match["form"]) for match in matches if match}
    found = [Place(run_dir, *name).read() for name in names]
    return sorted(found, key=lambda one: (-one.step, one.name))


def under_way(found: Sequence[Export]) -> list[str]:
    """Names of those that are written or wait for it."""
    return [one.name for one in found if one.state in UNDER_WAY]


def find_file(run_dir: Path, name: str, file: str) -> Path:
    """A file of an export that has succeeded. Raises ExportNotFound, OSError."""
    found = next((one for one in exports(run_dir) if one.name == name), None)
    if found is None or file not in found.files:
        state = "" if found is None else f", which is {found.state}"
        raise ExportNotFound(f"there is no file {file!r} of an export {name!r}{state}. GET …/exports lists the files")
    return Path(found.directory) / file


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
