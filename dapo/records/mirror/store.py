"""Objects of an object store, by the library obstore: the only place that knows it."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec
from typing import Any

from dapo.redaction import redact_url

EXTRA = "object-store"
_REQUEST_S, _CONNECT_S = 180.0, 10.0
_RETRY_S, _RETRIES = 60.0, 4
"""Of one request, within the library."""
_PART_BYTES, _MOST_PARTS = 8 << 20, 9_000
"""S3 takes 10,000 parts of an object."""
_PARTS_AT_ONCE = 6
_READ_BYTES = 16 << 20
_WORDS = 300
_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT")


class ObjectStoreError(RuntimeError):
    """An object store does not do what it was asked for; the message says why, and the cure."""


class NoSuchObject(ObjectStoreError):
    """There is no such object."""


def is_installed() -> bool:
    return find_spec("obstore") is not None


class ObjectStore:
    """What lies below one URL: s3://bucket/prefix, gs://bucket/prefix, or file:///folder, a mounted one.

    Credentials and endpoint are those of the process's environment. No request takes longer than some minutes, its
    retries included; objects of any size are read and written in parts. Threads may share it.
    """

    def __init__(self, url: str) -> None:
        """Raises ObjectStoreError where the extra is missing or the URL is none."""
        if not is_installed():
            raise ObjectStoreError(f"{redact_url(url)} needs the package obstore. pip install 'dapo[{EXTRA}]'")
        import obstore
        from obstore.store import from_url

        self.url = url.rstrip("/")
        self._library = obstore
        mounted = {"mkdir": True, "automatic_cleanup": True}
        options: dict[str, Any] = mounted if url.startswith("file:") else _remote_options()
        with self._told("opened"):
            self._store: Any = from_url(self.url, **options)

    def sizes(self, below: str = "") -> dict[str, int]:
        """Bytes of each object, by its path below the URL; of those below a folder alone. Raises ObjectStoreError."""
        with self._told("listed"):
            pages = self._library.list(self._store, below or None, chunk_size=1000)
            return {str(one["path"]): int(one["size"]) for page in pages for one in page}

    def folders(self) -> list[str]:
        """Names of those right below the URL. Raises ObjectStoreError."""
        with self._told("listed"):
            found = self._library.list_with_delimiter(self._store)["common_prefixes"]
            return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def read(self, path: str) -> bytes:
        """A small object. Raises NoSuchObject, ObjectStoreError."""
        with self._told(f"read ({path})"):
            return bytes(self._library.get(self._store, path).bytes())

    def stream(self, path: str, size: int) -> Iterator[bytes]:
        """An object of `size` bytes, in pieces. Raises NoSuchObject, ObjectStoreError."""
        for start in range(0, size, _READ_BYTES):
            with self._told(f"read ({path})"):
                end = min(start + _READ_BYTES, size)
                piece = bytes(self._library.get_range(self._store, path, start=start, end=end))
            yield piece

    def write(self, path: str, pieces: Iterable[bytes], size: int) -> None:
        """An object of about `size` bytes: all of it or nothing, also where `pieces` raises. Raises ObjectStoreError,
        and what `pieces` raises, which is no OSError or ValueError."""
        part_bytes = max(_PART_BYTES, -(-size // _MOST_PARTS))
        # One request for what is small; an iterator takes three.
        data = b"".join(pieces) if size <= _PART_BYTES else iter(pieces)
        with self._told(f"written ({path})"):
            self._library.put(self._store, path, data, chunk_size=part_bytes, max_concurrency=_PARTS_AT_ONCE)

    def delete(self, paths: Sequence[str]) -> None:
        """Raises ObjectStoreError; some of them may be gone then. One that is not there is none."""
        with self._told("deleted"):
            if paths:
                self._library.delete(self._store, list(paths))

    @contextmanager
    def _told(self, what: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except (BaseError, OSError, ValueError) as error:
            text = str(error)
            message = f"{redact_url(self.url)} cannot be {what}: {_in_words(text)}"
            gone = isinstance(error, FileNotFoundError) and "NoSuchBucket" not in text
            raise (NoSuchObject if gone else ObjectStoreError)(f"{message}{_cure(text)}") from error


def _remote_options() -> dict[str, Any]:
    plain = any(os.environ.get(name, "").startswith("http://") for name in _ENDPOINTS)
    client = {"timeout": f"{_REQUEST_S:g}s", "connect_timeout": f"{_CONNECT_S:g}s", "allow_http": plain}
    retry = {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_RETRY_S)}
    return {"client_options": client, "retry_config": retry}


def _in_words(text: str) -> str:
    """What a server or the library says, without what it repeats of a request."""
    first = text.partition("\n\nDebug source")[0]
    said = [match[1] for tag in ("Code", "Message") if (match := re.search(f"<{tag}>([^<]*)</{tag}>", text))]
    return " ".join((": ".join(said) or first).split()).rstrip(".")[:_WORDS]


def _cure(text: str) -> str:
    refused = ("403", "401", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "169.254.169.254")
    if "NoSuchBucket" in text:
        return ". Make the bucket, or name another"
    if any(one in text for one in refused):
        return ". Give the run service's environment credentials that may list, read, write and delete there"
    return ""
