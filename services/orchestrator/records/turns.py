"""Whose turn it is to change what a run's folder holds and no lease covers."""

import asyncio
import errno
import fcntl
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from dapo.records.folder import RunFolder

_WAIT_S = 20.0
_POLL_S = 0.02


@asynccontextmanager
async def taking_turns(run_dir: Path) -> AsyncIterator[None]:
    """While the block runs nobody else is in such a block of the folder, in any process, nor on another machine where
    its file system has locks. What a run does itself needs none: that its lease guards.

    Raises TimeoutError where others have had their turns for so long, FileNotFoundError for a folder that holds no run
    any more, OSError.
    """
    folder = RunFolder(run_dir)
    descriptor = os.open(folder.turns, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        await _take(descriptor, run_dir)
        if not folder.identity.exists():
            raise FileNotFoundError(errno.ENOENT, "the run was deleted", str(folder.identity))
        yield
    finally:
        os.close(descriptor)


async def _take(descriptor: int, run_dir: Path) -> None:
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"{run_dir} is being changed by another request, which has taken {_WAIT_S:g} s. Ask again"
                ) from None
            await asyncio.sleep(_POLL_S)
