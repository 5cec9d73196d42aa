"""What a disk refuses, in one sentence: what is the matter, where, how much is free, and the cure."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_CODE = os.EX_IOERR
"""Of a process that ends because of a StorageError: its last line, `error: …`, says all there is to say."""
_PROBE_BYTES = 1 << 20
_MIB = 1 << 20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# What is the matter, and the cure.
_TROUBLES: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", "Free some space, or use another folder"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space, or use another folder"),
    errno.EFBIG: ("File too large for the limit on its size", "Raise the limit (ulimit -f)"),
    errno.EROFS: ("the file system is read-only", "Use another folder"),
    errno.EACCES: ("permission denied", "Allow writing there, or use another folder"),
    errno.EPERM: ("permission denied", "Allow writing there, or use another folder"),
    errno.EMFILE: ("too many files are open", "Raise the limit (ulimit -n)"),
    errno.ENFILE: ("too many files are open on this machine", "Raise fs.file-max"),
    errno.EIO: ("the disk reports an error", "Use another disk"),
}


class StorageError(RuntimeError):
    """A disk refuses what the program needs. The message is a sentence for people: where, why, and the cure."""


def is_storage_error(error: BaseException) -> bool:
    """Whether `error` says that a disk is full, read-only, out of reach and the like: no fault of the program's."""
    return isinstance(error, OSError) and error.errno in _TROUBLES


def in_words(error: BaseException, path: Path | None = None) -> str:
    """What a disk refused, in one sentence; any other error's own message. `path` is where, if `error` does not say."""
    if not isinstance(error, OSError) or error.errno not in _TROUBLES:
        return str(error) or type(error).__name__
    trouble, cure = _TROUBLES[error.errno]
    where = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
    place = f": {where}" if where is not None else ""
    room = f" ({free_space(where)})" if where is not None and error.errno in _FULL else ""
    return f"{trouble}{place}{room}. {cure}"


def free_space(path: Path) -> str:
    """`3.2 MiB are free`, of the disk that has `path` or would have it."""
    there = next((one for one in (path, *path.absolute().parents) if one.exists()), Path("/"))
    disk = os.statvfs(there)
    if disk.f_files and not disk.f_favail:
        return "no further file fits: its inodes are used up"
    return f"{disk.f_bavail * disk.f_frsize / _MIB:,.1f} MiB are free"


def probe(folder: Path, size: int = _PROBE_BYTES) -> OSError | None:
    """Why a file of `size` bytes cannot be written in `folder`; None where it can. Nothing of it stays."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
            left = memoryview(bytes(size))
            while left:
                left = left[file.write(left) :]
            os.fsync(file.fileno())
    except OSError as error:
        return OSError(error.errno, os.strerror(error.errno or errno.EIO), str(folder))
    return None


def storage_error(error: BaseException, folder: Path) -> OSError | None:
    """What a disk refused when `error` came up while `folder` was written to; None where it was something else.

    Libraries hide it in texts (safetensors) or lose it (torch.save), so the texts are read and the folder is tried.
    """
    for cause in _causes(error):
        if isinstance(cause, OSError) and is_storage_error(cause):
            return cause
        if (number := number_in(str(cause))) is not None:
            return OSError(number, os.strerror(number), str(folder))
    return probe(folder)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, then what it was raised from or while handling, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def number_in(text: str) -> int | None:
    """The errno of the storage error that `text` names in the words of the C library, the last one of several."""
    found = {text.rfind(os.strerror(number)): number for number in _TROUBLES}
    at = max(found)
    return found[at] if at >= 0 else None


@contextmanager
def told_in_words(folder: Path, *hiding: type[Exception]) -> Iterator[None]:
    """Around a command that writes to `folder`: what a disk refuses ends the process in one sentence.

    `hiding` are the errors of libraries that say it in their text alone.
    """
    kinds: tuple[type[Exception], ...] = (OSError, *hiding)
    try:
        yield
    except kinds as error:
        refused = storage_error(error, folder)
        if refused is None:
            raise
        raise SystemExit(f"error: {in_words(refused, folder)}") from error
