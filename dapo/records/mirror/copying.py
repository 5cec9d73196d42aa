"""A checkpoint of a run's folder is copied to an object store."""

import hashlib
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from dapo.records.checkpoints import MANIFEST, CheckpointDamaged, Manifest, list_marked, read_whole
from dapo.records.folder import RunFolder
from dapo.records.mirror.inventory import (
    CHECKPOINT,
    INVENTORY,
    RECORDS,
    BadInventory,
    Entry,
    Inventory,
    lacking,
    names_in,
    parse_inventory,
    superfluous,
    write_inventory,
)
from dapo.records.mirror.store import NoSuchObject, ObjectStore, ObjectStoreError

log = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 20
_HELD = ".mirror-"
_FOLDER = RunFolder(Path())
KEPT_RECORDS = (
    _FOLDER.spec,
    _FOLDER.identity,
    _FOLDER.remarks,
    _FOLDER.provenance,
    _FOLDER.metrics,
    _FOLDER.evaluations,
)
"""By their names in a run's folder: what it takes to go on, and what was measured."""


class CopyLeft(RuntimeError):
    """A copy was broken off, as asked for."""


class CheckpointGone(RuntimeError):
    """A checkpoint went from the run's folder while it was copied: newer ones have come."""


class CheckpointCopy:
    """One checkpoint on its way to the store below which its run's lie.

    Promises: it counts there once `run` has returned and not before, whenever the process dies; it is what the run's
    folder has of it. Hard links hold its files while they are copied: a learner that deletes it meanwhile, since newer
    ones have come, does not end the copy, so a slow store still gets one now and then. A call of `run` after one that
    raised goes on where that stopped. Nothing survives a restart but the objects, which another copy of the same
    checkpoint writes again, and links, which `sweep` removes.
    """

    def __init__(self, run_dir: Path, name: str) -> None:
        self.name = name
        self.sent_bytes = 0
        """In this call of `run` and those before."""
        self._run_dir = run_dir
        self._directory = RunFolder(run_dir).checkpoints / name
        self._held = run_dir / f"{_HELD}{secrets.token_hex(4)}"
        self._source = self._directory
        self._sent: dict[str, Entry] = {}
        # Another leader may copy the same checkpoint, and its records may be longer.
        self._records = f"{RECORDS}{secrets.token_hex(4)}/"
        self._left = False

    def leave(self) -> None:
        """Another thread's `run` ends with CopyLeft, within a request."""
        self._left = True

    def run(self, store: ObjectStore) -> None:
        """Raises CopyLeft, CheckpointGone, CheckpointError where it is not whole in the folder, ObjectStoreError."""
        try:
            self._copy(store, self._hold())
        finally:
            shutil.rmtree(self._held, ignore_errors=True)

    def _hold(self) -> Manifest:
        """Raises CheckpointGone, CheckpointError."""
        self._source = self._directory
        try:
            manifest = read_whole(self._directory).manifest
            for path in (*manifest.files, MANIFEST):
                (self._held / path).parent.mkdir(parents=True, exist_ok=True)
                os.link(self._directory / path, self._held / path)
            self._source = self._held
        except (CheckpointDamaged, FileNotFoundError):
            self._check_there()
            raise
        except OSError as error:
            log.info("%s is copied without being held, as its disk has no hard links: %s", self.name, error)
        return manifest

    def _copy(self, store: ObjectStore, manifest: Manifest) -> None:
        sizes = store.sizes(self.name)
        if f"{self.name}/{INVENTORY}" in sizes:
            if self._is_copied(store, sizes):
                return
            store.delete([f"{self.name}/{INVENTORY}"])
        for path, size in manifest.files.items():
            self._send(store, path, size, sizes)
        self._send(store, MANIFEST, None, sizes)
        for record in KEPT_RECORDS:
            self._send_record(store, record.name)
        if missing := lacking(self.name, self._sent, store.sizes(self.name)):
            raise ObjectStoreError(f"{store.url} took {self.name}/{missing[0]} and does not have it as it was")
        self._write(store, INVENTORY, write_inventory(self._sent))

    def _is_copied(self, store: ObjectStore, sizes: Mapping[str, int]) -> bool:
        """A learner of another world may have made a checkpoint of this name: then its manifest differs."""
        inventory = read_inventory(store, self.name)
        manifest = b"".join(self._read(self._source / MANIFEST))
        entry = Entry(len(manifest), hashlib.sha256(manifest).hexdigest())
        if inventory is None or inventory.get(CHECKPOINT + MANIFEST) != entry:
            return False
        return not lacking(self.name, inventory, sizes)

    def _send(self, store: ObjectStore, relative: str, expected: int | None, sizes: Mapping[str, int]) -> None:
        """A file of the checkpoint, of `expected` bytes (None: of any size); `sizes`: of what is there of it."""
        path, file = CHECKPOINT + relative, self._source / relative
        sent = self._sent.get(path)
        if sent is not None and sizes.get(f"{self.name}/{path}") == sent.size:
            return
        digest, size = hashlib.sha256(), 0

        def pieces() -> Iterator[bytes]:
            nonlocal size
            for chunk in self._read(file):
                digest.update(chunk)
                size += len(chunk)
                self.sent_bytes += len(chunk)
                yield chunk

        store.write(f"{self.name}/{path}", pieces(), expected or 0)
        if expected is not None and size != expected:
            raise CheckpointDamaged(f"{file} had {size} bytes when it was copied, its manifest says {expected}")
        self._sent[path] = Entry(size, digest.hexdigest())

    def _read(self, file: Path) -> Iterator[bytes]:
        """Raises no OSError, which would be taken for the store's."""
        try:
            with file.open("rb") as opened:
                while chunk := opened.read(_CHUNK_BYTES):
                    if self._left:
                        raise CopyLeft(f"the copy of {self.name} was left")
                    yield chunk
        except OSError as error:
            self._check_there()
            raise CheckpointDamaged(f"{file} cannot be read: {error}") from error

    def _send_record(self, store: ObjectStore, name: str) -> None:
        """Whole lines of what grows meanwhile; what is not there is left out."""
        try:
            text = (self._run_dir / name).read_bytes()
        except FileNotFoundError:
            return
        if name.endswith(".jsonl"):
            text = text[: text.rfind(b"\n") + 1]
        self._write(store, self._records + name, text)
        self._sent[self._records + name] = Entry(len(text), hashlib.sha256(text).hexdigest())

    def _write(self, store: ObjectStore, path: str, text: bytes) -> None:
        if self._left:
            raise CopyLeft(f"the copy of {self.name} was left")
        store.write(f"{self.name}/{path}", [text], len(text))

    def _check_there(self) -> None:
        """Raises CheckpointGone where the checkpoint counts no more: it is deleted only then."""
        if self._directory not in list_marked(self._directory.parent):
            raise CheckpointGone(f"{self._directory} is gone")


def sweep(run_dir: Path) -> None:
    """Links of copies that died. Raises OSError."""
    for path in run_dir.glob(f"{_HELD}*"):
        shutil.rmtree(path, ignore_errors=True)


def read_inventory(store: ObjectStore, name: str) -> Inventory | None:
    """Of a checkpoint; None where there is none that can be read. Raises ObjectStoreError."""
    try:
        return parse_inventory(store.read(f"{name}/{INVENTORY}"))
    except (NoSuchObject, BadInventory):
        return None


def delete_older(store: ObjectStore, latest: str, keep: int) -> list[str]:
    """Once `latest` is whole there: the names of those that went, so that at most `keep` are left up to it. Raises
    ObjectStoreError."""
    sizes = store.sizes()
    names = names_in(sizes)
    inventories = {name: read_inventory(store, name) for name in names if f"{name}/{INVENTORY}" in sizes}
    whole = {name for name, one in inventories.items() if one is not None and not lacking(name, one, sizes)}
    gone = superfluous(names, whole, latest, keep)
    for name in gone:
        store.delete([one for one in (f"{name}/{INVENTORY}",) if one in sizes])
        store.delete([one for one in sizes if one.startswith(f"{name}/") and one != f"{name}/{INVENTORY}"])
    return gone
