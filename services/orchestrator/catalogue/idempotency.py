"""Requests that may be sent again: the same key makes one run, however often it comes."""

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from weakref import WeakValueDictionary

from dapo.host.files import write_json
from dapo.host.storage import in_words

log = logging.getLogger(__name__)

REQUESTS_FILE = "requests.json"
"""Its name in the directory of a run service."""
_KEPT = 1_000
"""The newest so many keys are known."""
_UNDER_WAY = ""
_PATIENCE_S = 10.0
"""How long another instance may take that has begun with a request; one that has died never says."""
_POLL_S = 0.1


class KeyReused(ValueError):
    """The key came with another request before, or with one whose outcome nobody knows."""


class Idempotency:
    """What became of requests with a key.

    Restart: a file, which several processes may share. A key is written before its run is made; where the service ends
    in between, the key is refused after a while, since the run may be there.
    """

    def __init__(self, folder: Path | None) -> None:
        """None: keys are known while this process lives."""
        self._folder = folder
        self._known: dict[str, list[str]] = {}
        """Of each key the digest of its request, and the run; the newest last."""
        self._changing = threading.Lock()
        self._under_way: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By key, of the requests of this process."""

    async def once(self, key: str, request: str, make: Callable[[], Awaitable[str]]) -> tuple[str, bool]:
        """The run that `make` makes, or that it made for this key before, and whether that was before.

        `key` says whose it is, too. Raises KeyReused, OSError, and what `make` raises; then the key is free again.
        """
        key, digest = _digest(key), _digest(request)
        async with self._under_way.setdefault(key, asyncio.Lock()):
            known = await self._begin_patiently(key, digest)
            if known is not None:
                return self._again(known, digest), True
            try:
                run = await make()
            except BaseException:
                with suppress(OSError):  # The key stays refused; why there is no run is worth more.
                    await asyncio.to_thread(self._set, key, None)
                raise
            try:
                await asyncio.to_thread(self._set, key, [digest, run])
            except OSError as error:  # The run is there all the same; the key is refused from now on.
                log.error("the key of run %s is not kept: %s", run, in_words(error, self._folder))
            return run, False

    async def _begin_patiently(self, key: str, digest: str) -> list[str] | None:
        """As `_begin`; what another instance has begun with is waited for."""
        deadline = time.monotonic() + _PATIENCE_S
        while (known := await asyncio.to_thread(self._begin, key, digest)) == [digest, _UNDER_WAY]:
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(_POLL_S)
        return known

    def _again(self, known: list[str], digest: str) -> str:
        before, run = known
        if before != digest:
            raise KeyReused("this Idempotency-Key came with another request before: take a new one")
        if run == _UNDER_WAY:
            raise KeyReused(
                "what became of the request that came with this Idempotency-Key before is not known: a service is at "
                "it still, or ended over it. Ask again later, or see GET /v1/runs whether its run is there, and take a "
                "new key if it is not"
            )
        return run

    def _begin(self, key: str, digest: str) -> list[str] | None:
        """What is known of the key; where that is nothing, it is under way from now on."""
        with self._file() as known:
            if key in known:
                return known[key]
            known[key] = [digest, _UNDER_WAY]
            for oldest in list(known)[:-_KEPT]:
                del known[oldest]
        return None

    def _set(self, key: str, value: list[str] | None) -> None:
        with self._file() as known:
            known.pop(key, None)
            if value is not None:
                known[key] = value

    @contextmanager
    def _file(self) -> Iterator[dict[str, list[str]]]:
        """What is known, to be changed. Raises OSError."""
        if self._folder is None:
            with self._changing:
                yield self._known
            return
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            path = self._folder / REQUESTS_FILE
            known = _read(path)
            before = json.dumps(known)
            yield known
            if json.dumps(known) != before:
                write_json(path, known, durable=True)
        finally:
            os.close(descriptor)


def _read(path: Path) -> dict[str, list[str]]:
    """Empty where there is none, or one that was damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {str(key): [str(digest), str(run)] for key, (digest, run) in found.items()}
    except (FileNotFoundError, ValueError, TypeError, AttributeError):
        return {}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
