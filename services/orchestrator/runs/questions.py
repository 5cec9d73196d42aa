"""Questions about the groups of a run: answered from its Redis while that is open, from its folder afterwards."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from dapo.bus import BusError, GroupState, UnknownGroup
from dapo.bus.keys import COMPLETIONS, SCORED
from dapo.bus.parts.records import GroupFacts
from dapo.bus.parts.streams import Holder
from dapo.bus.questions import QuestionBus
from dapo.bus.server.connection import Server
from dapo.records.checkpoints import CheckpointError
from dapo.records.explanations import GroupExplanation, explain_group
from dapo.records.group_archive import (
    DeadLetter,
    dead_letter,
    read_archived_group,
    read_dead_letters,
    write_dead_letters,
    write_group_archive,
)
from services.orchestrator.records.samples import Secure

log = logging.getLogger(__name__)

_ANSWER_S = 5.0
"""How long a Redis that may be gone is waited for."""
_KEEPING_S = 60.0
_LETTERS = 10_000
T = TypeVar("T")


class GroupNotFound(LookupError):
    """The run has no such group, or its record is gone."""


class NoAnswer(RuntimeError):
    """The run's Redis does not answer."""


class FolderUnreadable(RuntimeError):
    """A file in the run's folder is damaged, or may not be read."""


class HasBus(Protocol):
    @property
    def bus(self) -> QuestionBus | None:
        """While it is open."""


class Questions:
    """What a run knows of its groups and dead letters. Reads only; at the end `keep` writes what there is to the run's
    folder, from which later questions are answered."""

    def __init__(self, run_dir: Path, redis: "HasBus | None" = None) -> None:
        """`redis`: None for a run of an earlier service, of which only the folder can tell."""
        self._run_dir = run_dir
        self._redis = redis
        self._kept = False

    @property
    def bus(self) -> QuestionBus | None:
        """While the run's Redis is open; once all of it is in the folder nobody has to meet a server that is ending."""
        return self._redis.bus if self._redis is not None and not self._kept else None

    async def explain(self, group_id: str) -> GroupExplanation:
        """Raises GroupNotFound, NoAnswer, FolderUnreadable."""
        if (bus := self.bus) is not None:
            try:
                async with answering():
                    facts = await bus.groups.facts(group_id)
                    return await _explain(bus, facts, await _holders(bus, facts))
            except GroupNotFound:
                pass  # It may be in the file of an earlier end of the run.
        found = await read_folder(lambda: read_archived_group(self._run_dir, group_id))
        if found is None:
            raise GroupNotFound(
                f"there is no record of group {group_id!r}: it was not issued, or so long ago that its record has left"
            )
        return found

    async def dead_letters(self, count: int) -> list[DeadLetter]:
        """The newest first. Raises NoAnswer, FolderUnreadable."""
        if (bus := self.bus) is not None:
            async with answering():
                return [dead_letter(letter) for letter in await bus.dead_letters.read(count)]
        return (await read_folder(lambda: read_dead_letters(self._run_dir)))[: -count - 1 : -1]

    async def keep(self, secure: Secure) -> None:
        """Write what is known to the run's folder; `secure` is awaited before. Where that fails, it is only logged."""
        if (bus := self.bus) is None:
            return
        try:
            letters = await self.dead_letters(_LETTERS)
            await secure()
            await asyncio.to_thread(write_dead_letters, self._run_dir, letters[::-1])
            async with asyncio.timeout(_KEEPING_S):
                groups = await bus.groups.stored()
            await secure()
            await asyncio.to_thread(write_group_archive, self._run_dir, groups)
            self._kept = True
        except (NoAnswer, BusError, TimeoutError, OSError, ValueError) as error:
            log.warning("what is known of the groups is not kept in %s: %s", self._run_dir, error)


async def check_server(url: str) -> None:
    """Raises NoAnswer where the Redis at `url` does not answer, or is none that a run could use."""
    try:
        server = Server(url, outage_s=0.0)
    except BusError as error:
        raise NoAnswer(str(error)) from error
    try:
        async with answering():
            await server.check()
    finally:
        await server.close()


async def read_folder(read: Callable[[], T]) -> T:
    """What `read` finds in a run's folder, off the event loop. Raises FolderUnreadable."""
    try:
        return await asyncio.to_thread(read)
    except (OSError, ValueError, CheckpointError) as error:
        raise FolderUnreadable(f"the run's folder cannot be read: {error}") from error


@asynccontextmanager
async def answering(more_s: float = 0.0) -> AsyncIterator[None]:
    """Of what Redis is asked: waits a few seconds at most, and `more_s`. Raises GroupNotFound, NoAnswer."""
    try:
        async with asyncio.timeout(_ANSWER_S + more_s):
            yield
    except UnknownGroup as error:
        raise GroupNotFound(str(error)) from error
    except (BusError, TimeoutError) as error:
        raise NoAnswer(f"the run's Redis does not answer: {str(error) or f'{_ANSWER_S:.0f} s passed'}") from error


async def _explain(bus: QuestionBus, facts: GroupFacts, holders: Sequence[Holder]) -> GroupExplanation:
    return explain_group(facts, await bus.dead_letters.find(facts.letter_id) if facts.letter_id else None, holders)


async def _holders(bus: QuestionBus, facts: GroupFacts) -> list[Holder]:
    """Who has what the group waits for."""
    since_ms = facts.marks[0].at_ms if facts.marks else 0
    streams = {
        GroupState.ISSUED: [facts.stream, COMPLETIONS],
        GroupState.GENERATED: [COMPLETIONS],
        GroupState.SCORED: [SCORED],
    }.get(GroupState(facts.record.state), [])
    found = [await bus.streams.holders(stream, facts.record.group_id, since_ms) for stream in streams]
    return [holder for one in found for holder in one]
