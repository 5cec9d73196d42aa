"""Signs that the learner gets on where its next step is far: while it loads, and while it waits for a checkpoint.

The orchestrator starts a learner again of which it has seen none for long (LEARNER_STEP). A heartbeat is no such sign:
its thread beats on where the others hang.
"""

import asyncio
import resource
from collections.abc import Callable
from pathlib import Path

from dapo.bus.keys import LEARNER_STEP
from dapo.bus.roles import LearnerBus
from dapo.host.memory import peak_bytes

_PERIOD_S = 2.0
_KNOWN_S = 86_400.0
"""How long it stays said how far the learner is."""


async def announce(bus: LearnerBus, how_far: str) -> None:
    """Rank 0 alone: with two who speak, each word would differ from the one before."""
    await bus.registry.announce(LEARNER_STEP, how_far, _KNOWN_S)


async def keep_announcing(bus: LearnerBus, what: str, how_far: Callable[[], str]) -> None:
    """Announce what is done and how far it is, until cancelled; `how_far` may take its time."""
    while True:
        await announce(bus, f"{what}: {await asyncio.to_thread(how_far)}")
        await asyncio.sleep(_PERIOD_S)


def memory_filled() -> str:
    """How far this process is that reads a model: what it has read from disks, in blocks of 512 bytes, and the most
    memory that it has held, in KiB. Either may stand still, e.g. where the files are cached."""
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_inblock} blocks read, {peak_bytes() // 1024} KiB held"


def files_written(directory: Path) -> str:
    """How far the files in it are. Of a file that gets its size first only the blocks on the disk grow."""
    files = size = blocks = 0
    for path in directory.rglob("*"):
        try:
            status = path.stat()
        except FileNotFoundError:  # A library's scratch file.
            continue
        files, size, blocks = files + 1, size + status.st_size, blocks + status.st_blocks
    return f"{files} files, {size} bytes, {blocks} blocks"
