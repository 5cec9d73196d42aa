"""A run comes back from an object store: its newest whole checkpoint, and the records of that moment."""

import hashlib
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from dapo.host.files import file_sha256, replacing, sync
from dapo.records.checkpoints import (
    MANIFEST,
    CheckpointError,
    find_newest,
    mark,
    newest_epoch,
    read_whole,
    step_and_epoch,
)
from dapo.records.folder import RunFolder
from dapo.records.identity import FolderLock, RunDirError, RunIdentity, read_identity, write_identity
from dapo.records.mirror.copying import KEPT_RECORDS, read_inventory
from dapo.records.mirror.inventory import CHECKPOINT, RECORDS, Entry, Inventory, age, lacking, names_in
from dapo.records.mirror.store import ObjectStore

Progress = Callable[[int, int], None]
"""Bytes that are there, and bytes in all."""


class NothingToFetch(RuntimeError):
    """A store has no whole checkpoint of the run; the message says what it has."""


class FetchTimeout(RuntimeError):
    """It took longer than was allowed; what has come stays, and another call goes on from there."""


class Mirrored(NamedTuple):
    """A whole checkpoint in a store, and what is the matter with each that is newer."""

    name: str
    inventory: Inventory
    damage: list[str]
    epoch: int
    """The highest one of which anything is there."""

    @property
    def step(self) -> int:
        return step_and_epoch(self.name)[0]

    @property
    def records(self) -> dict[str, str]:
        """Path of each of the run's records, by its name in the run's folder."""
        return {path.rpartition("/")[2]: path for path in self.inventory if path.startswith(RECORDS)}

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(entry.size for entry in self.inventory.values())


def find_mirrored(store: ObjectStore) -> Mirrored:
    """The newest whole one below URL/RUN_ID. Raises NothingToFetch, ObjectStoreError."""
    sizes = store.sizes()
    damage: list[str] = []
    names = names_in(sizes)
    for name in names:
        inventory = read_inventory(store, name)
        if inventory is None:
            damage.append(f"{name} has no inventory: it was not copied to its end")
        elif missing := lacking(name, inventory, sizes):
            damage.append(f"{name} lacks {missing[0]}" + (f" and {len(missing) - 1} more" if missing[1:] else ""))
        else:
            return Mirrored(name, inventory, damage, age(names[0])[0])
    if damage:
        raise NothingToFetch(f"{store.url} has no whole checkpoint: {'; '.join(damage)}")
    runs = ", ".join(store.folders()[:20])
    raise NothingToFetch(
        f"{store.url} has no checkpoints. "
        + (f"There are {runs}: add one to the URL" if runs else "Nothing lies there")
    )


def fetch(store: ObjectStore, found: Mirrored, run_dir: Path, *, within_s: float, progress: Progress) -> None:
    """Make `run_dir` a folder with which a run can go on from that checkpoint, or give it that checkpoint if it is the
    run's and has none that is whole. Every file is compared with its checksum.

    It counts once this has returned: a call that was cut short changes nothing but files that do not count, which the
    next call does not fetch again. Raises RunDirError, CheckpointError, ObjectStoreError, FetchTimeout, OSError.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = FolderLock(run_dir)
    try:
        is_run = RunFolder(run_dir).spec.exists()
        if is_run:
            _check_same(store, found, run_dir)
        _Fetch(store, found, run_dir, time.monotonic() + within_s, progress).run(records=not is_run)
    finally:
        lock.release()


def _check_same(store: ObjectStore, found: Mirrored, run_dir: Path) -> None:
    """Raises RunDirError where the folder holds another run, or has a checkpoint to go on from."""
    run_id = read_identity(run_dir).run_id
    name = RunFolder(run_dir).identity.name
    if name not in found.records:
        raise RunDirError(f"{store.url} has no {name} of {found.name}")
    mirrored = _run_id(store.read(f"{found.name}/{found.records[name]}"))
    if run_id != mirrored:
        raise RunDirError(f"{run_dir} holds the run {run_id}, {store.url} has {mirrored}: give another folder")
    newest = find_newest(RunFolder(run_dir).checkpoints).checkpoint
    if newest is not None:
        raise RunDirError(
            f"{run_dir} has a whole checkpoint, of step {newest.manifest.step}: the run goes on from there (dapo runs "
            "resume). To go on from what the store has, give a new folder"
        )


def _run_id(identity: bytes) -> str:
    """Raises RunDirError."""
    try:
        return str(json.loads(identity)["run_id"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunDirError(f"run.json in the store names no run: {error!r}") from error


class _Fetch:
    def __init__(self, store: ObjectStore, found: Mirrored, run_dir: Path, deadline: float, progress: Progress) -> None:
        self._store, self._found = store, found
        self._run_dir, self._folder = run_dir, RunFolder(run_dir)
        self._directory = self._folder.checkpoints / found.name
        self._deadline, self._progress = deadline, progress
        self._done = 0

    def run(self, *, records: bool) -> None:
        inventory, manifest = self._found.inventory, CHECKPOINT + MANIFEST
        self._check_room()
        # Its manifest last, as a learner writes it.
        paths = [path for path in inventory if path.startswith(CHECKPOINT)]
        for path in sorted(paths, key=lambda path: path == manifest):
            self._bring(path, self._directory / path.removeprefix(CHECKPOINT))
        for folder in (self._directory, self._directory.parent, self._run_dir):
            sync(folder)
        read_whole(self._directory)
        # The next learner's is higher: it makes no name that the store has.
        epoch = max(newest_epoch(self._folder.checkpoints), self._found.epoch)
        mark(self._folder.checkpoints, epoch, [self._found.name])
        if records:
            self._bring_records()

    def _bring_records(self) -> None:
        """The spec last, which makes a folder a run's. Raises RunDirError."""
        records = self._found.records
        spec, identity = self._folder.spec.name, self._folder.identity.name
        if missing := {spec, identity} - records.keys():
            raise RunDirError(f"{self._store.url} has no {missing.pop()} of {self._found.name}")
        for record in KEPT_RECORDS:
            if record.name in records and record.name != spec:
                self._bring(records[record.name], self._run_dir / record.name)
        self._begin_anew()
        self._bring(records[spec], self._run_dir / spec)

    def _begin_anew(self) -> None:
        """No Redis has the latest word of what the folder now holds. No service takes it up by itself, as somebody may
        still lead the run elsewhere, unless a Redis lists it as one that is to go on."""
        stored = json.loads(self._folder.identity.read_text(encoding="utf-8"))
        identity = RunIdentity(**{name: value for name, value in stored.items() if name in RunIdentity._fields})
        anew = identity._replace(history=secrets.token_hex(8), taken_up=False, queued_at="")
        write_identity(self._run_dir, anew)

    def _check_room(self) -> None:
        """Raises RunDirError."""
        self._folder.checkpoints.mkdir(parents=True, exist_ok=True)
        there = sum(path.stat().st_size for path in self._directory.rglob("*") if path.is_file())
        needed, free = self._found.size - there, shutil.disk_usage(self._run_dir).free
        if needed > free:
            raise RunDirError(f"{self._run_dir} has room for {free:,} bytes, the checkpoint takes {needed:,} more")

    def _bring(self, path: str, file: Path) -> None:
        entry = self._found.inventory[path]
        if not _is(file, entry):
            file.parent.mkdir(parents=True, exist_ok=True)
            self._download(path, file, entry)
        self._done += entry.size
        self._progress(self._done, self._found.size)

    def _download(self, path: str, file: Path, entry: Entry) -> None:
        digest, come = hashlib.sha256(), 0
        with replacing(file, durable=True) as scratch, scratch.open("wb") as opened:
            for piece in self._pieces(path, entry):
                digest.update(piece)
                opened.write(piece)
                come += len(piece)
                self._progress(self._done + come, self._found.size)
            if digest.hexdigest() != entry.sha256:
                raise CheckpointError(
                    f"{self._store.url}/{self._found.name}/{path} is not what was copied there: its SHA-256 "
                    "is another. Delete that checkpoint from the store, and the one before is fetched"
                )

    def _pieces(self, path: str, entry: Entry) -> Iterator[bytes]:
        for piece in self._store.stream(f"{self._found.name}/{path}", entry.size):
            if time.monotonic() > self._deadline:
                raise FetchTimeout(f"{self._store.url}: not all has come in time; call it again, it goes on from there")
            yield piece


def _is(file: Path, entry: Entry) -> bool:
    return file.is_file() and file.stat().st_size == entry.size and file_sha256(file) == entry.sha256
