"""The logs of a run's workers, from their end or as they grow."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from dapo.records.folder import RunFolder

LINES, MOST_LINES = 100, 10_000
"""Where nobody says how many, and at most."""
_BLOCK = 1 << 16
_LONGEST = 4 << 20
"""Bytes that are read backwards at most, however long lines are."""
_POLL_S = 0.5


class LogNotFound(LookupError):
    """The run has no such log."""


def log_names(run_dir: Path) -> list[str]:
    """Of all workers that have written one."""
    folder = RunFolder(run_dir).logs
    return sorted(path.stem for path in folder.glob("*.log") if path.is_file())


def find_log(run_dir: Path, worker: str) -> Path:
    """Raises LogNotFound, which says what there is."""
    names = log_names(run_dir)
    if worker not in names:
        raise LogNotFound(f"there is no log of {worker!r}; there are: {', '.join(names) or 'none yet'}")
    return RunFolder(run_dir).logs / f"{worker}.log"


async def read_log(path: Path, lines: int, *, follow: bool, over: Callable[[], Awaitable[bool]]) -> AsyncIterator[str]:
    """The last `lines` lines, each with its end, then with `follow` those that come until `over`. What is no UTF-8, or
    NUL, is replaced. Nothing of a log that goes away meanwhile. A line that is not ended yet comes when it is, or at
    the end.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        file.seek(await asyncio.to_thread(_start, path, lines))
        rest = b""
        while True:
            ended = not follow or await over()
            while block := await asyncio.to_thread(file.read, _BLOCK):
                *whole, rest = (rest + block).split(b"\n")
                for line in whole:
                    yield _text(line) + "\n"
            if ended:
                break
            await asyncio.sleep(_POLL_S)
        if rest:
            yield _text(rest)


def _text(line: bytes) -> str:
    return line.decode("utf-8", errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")


def _start(path: Path, lines: int) -> int:
    """Where the last lines begin."""
    with path.open("rb") as file:
        at = size = file.seek(0, os.SEEK_END)
        ends = 0
        while at > 0 and size - at < _LONGEST:
            step = min(_BLOCK, at)
            file.seek(at - step)
            block = file.read(step)
            if at == size and block.endswith(b"\n"):
                ends -= 1  # That of the last line begins none.
            for place in range(len(block) - 1, -1, -1):
                if block[place] == 0x0A:
                    ends += 1
                    if ends == lines:
                        return at - step + place + 1
            at -= step
        return at
