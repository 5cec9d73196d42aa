"""What was found out, kept as long as it holds: of files until they change, of an answer for a moment."""

import asyncio
import math
import os
import time
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")
_TICK_NS = 2_000_000_000
"""Two changes within a tick of the file system's clock, two seconds at worst, may leave the same time behind."""

FileState = tuple[int, int, int, int]


def file_state(path: str | Path) -> FileState | None:
    """Another one whenever the file was replaced, written or its mode changed, but for changes within a tick of the
    file system's clock; None where there is none that can be seen."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def is_settled(states: Sequence[FileState | None], now_ns: int) -> bool:
    """Whether no file has changed so shortly before `now_ns` (Unix time) that it may change and keep its state."""
    return all(state is None or max(state[2:]) < now_ns - _TICK_NS for state in states)


class _Kept(NamedTuple, Generic[T]):
    states: tuple[FileState | None, ...]
    value: T


class Remembered(Generic[T]):
    """What `read` makes of a folder, read again whenever one of its files `names` is another one or has changed, by
    whomever. May be asked by several threads at once.

    Restart: nothing is kept.
    """

    def __init__(self, read: Callable[[Path], T], names: Sequence[str], most: int) -> None:
        """`read` looks at nothing in the folder but the files `names`. At most `most` folders are remembered; what is
        asked beyond them is read each time."""
        self._read = read
        self._names = [f"/{name}" for name in names]
        self._most = most
        self._kept: dict[str, _Kept[T]] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, folder: str) -> T:
        """For others to read only, as it is handed out again. Raises what `read` raises, which is not kept."""
        now_ns = time.time_ns()
        states = tuple(file_state(folder + name) for name in self._names)
        kept = self._kept.get(folder)
        if kept is not None and kept.states == states:
            return kept.value
        value = self._read(Path(folder))
        # What has changed just now may change once more without a trace, so it is read again next time.
        if is_settled(states, now_ns) and (folder in self._kept or len(self._kept) < self._most):
            self._kept[folder] = _Kept(states, value)
        else:
            self._kept.pop(folder, None)
        return value

    def keep_only(self, folders: Collection[str]) -> None:
        """Forget all others."""
        for folder in [one for one in list(self._kept) if one not in folders]:
            self._kept.pop(folder, None)


class Briefly(Generic[T]):
    """Answers that many ask for at once, each found once for all who ask within a moment.

    Nobody gets an answer that was begun longer ago than that moment; one that raises is raised to all who wait for it.
    Restart: nothing is kept.
    """

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._asked: dict[Hashable, asyncio.Task[T]] = {}

    async def get(self, key: Hashable, find: Callable[[], Awaitable[T]]) -> T:
        """What `find` gives, or has just given, for this key; whoever leaves stops nobody else's answer."""
        if (task := self._asked.get(key)) is None:
            task = asyncio.ensure_future(_awaited(find))
            # Its exception is asked for by those who wait; where they all left, nobody misses it.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._asked[key] = task
            asyncio.get_running_loop().call_later(self._within_s, self._asked.pop, key, None)
        return await asyncio.shield(task)


class LastAnswer(Generic[T]):
    """An answer that is looked for again once it is `every_s` old, and waited for `within_s` at most: until then,
    and where it cannot be found, the last one holds.

    One search is under way at a time, also while many wait. Restart: nothing is kept.
    """

    def __init__(self, first: T, *, every_s: float, within_s: float) -> None:
        self._answer = first
        self._every_s, self._within_s = every_s, within_s
        self._key: Hashable = None
        self._due = -math.inf
        self._search: asyncio.Task[None] | None = None

    async def get(self, key: Hashable, find: Callable[[], Awaitable[T | None]]) -> T:
        """`find` gives None where there is no answer now; for another key than before it is asked at once."""
        now = asyncio.get_running_loop().time()
        if self._search is None and (now >= self._due or key != self._key):
            self._key, self._due = key, now + self._every_s
            self._search = asyncio.create_task(self._look(find))
        if self._search is not None:
            done, _ = await asyncio.wait({self._search}, timeout=self._within_s)
            for search in done:
                search.result()
        return self._answer

    async def _look(self, find: Callable[[], Awaitable[T | None]]) -> None:
        try:
            if (found := await find()) is not None:
                self._answer = found
        finally:
            self._search = None


async def _awaited(find: Callable[[], Awaitable[T]]) -> T:
    return await find()
