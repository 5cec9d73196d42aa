"""Files: replaced in one step, put on the disk, hashed, and the ends of logs."""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_HASH_CHUNK_BYTES = 1 << 20
_TAIL_BYTES = 64 << 10


@contextmanager
def replacing(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Replace the file `path` in one step: the block writes the new file under the path that it is given.

    A reader sees the old file or the whole new one. Where the block raises, `path` is as it was and the new file is
    removed. Threads and machines that write at once do not disturb each other: the last to finish wins. With `durable`
    the new file is on the disk before it replaces the old one, and the replacement is before this returns. A link stays
    one: the file that it points to is replaced. A device or a pipe, e.g. /dev/stdout, is written to as it is.
    Raises OSError, e.g. where the disk is full.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    path = path.resolve()
    # Thread ids are unique on one machine, and folders may be shared between machines.
    scratch = path.with_name(f".{path.name}.{os.uname().nodename}-{threading.get_native_id()}.part")
    try:
        yield scratch
        if durable:
            sync(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)
    if durable:
        sync(path.parent)


def write_text(path: Path, text: str, *, durable: bool = False) -> None:
    """Replace the file `path` by `text` in UTF-8, as `replacing` does."""
    with replacing(path, durable=durable) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, durable: bool = False) -> None:
    """Replace the file `path` by `value` as indented JSON, as `replacing` does.

    Raises TypeError for a value that JSON has no form for.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n", durable=durable)


def append_line(path: Path, line: bytes) -> None:
    """Append all of `line` or, where the disk is full, nothing: then raises OSError."""
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        written = file.write(line)
        if written != len(line):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def follow_umask(folder: Path) -> None:
    """Give the folder and all that is in it the modes of new files, as the umask has them.

    Some libraries write theirs for the owner alone, and copies keep the modes of what was copied. Raises OSError.
    """
    mask = _umask()
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _umask() -> int:
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:  # Not Linux: only by setting it, which other threads may see for a moment.
        mask = os.umask(0o077)
        os.umask(mask)
        return mask
    return int(status.partition("Umask:")[2].split()[0], 8)


def sync(path: Path) -> None:
    """Returns once the file, or the names in the folder, are on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def tail(path: Path, lines: int = 30) -> str:
    """The last lines of a log, of which only the last 64 KiB are read; "" where there is no file.

    Bytes that are not UTF-8 are replaced. Raises OSError for a file that cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])


def file_sha256(path: Path, limit_bytes: int | None = None) -> str:
    """Hex SHA-256 of the file's first `limit_bytes` (of all of it by default), read in pieces."""
    digest = hashlib.sha256()
    left = limit_bytes if limit_bytes is not None else path.stat().st_size
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(_HASH_CHUNK_BYTES, left))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()
