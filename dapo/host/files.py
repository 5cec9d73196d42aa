"""Whole files: their hashes."""

import hashlib
from pathlib import Path

_HASH_CHUNK = 1 << 20


def file_sha256(path: Path, limit_bytes: int | None = None) -> str:
    """Hex SHA-256 of the file's first `limit_bytes` (of all of it by default), read in pieces."""
    digest = hashlib.sha256()
    left = limit_bytes if limit_bytes is not None else path.stat().st_size
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(_HASH_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()
