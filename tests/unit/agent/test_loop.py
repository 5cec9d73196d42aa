"""What keeps an agent's loop from its work, and what does not."""

import asyncio
import logging
import time
from pathlib import Path
from typing import cast

import pytest

from dapo.bus.agents import Agent, AgentRecords, Answer, Order
from services.agent.agent import AgentLoop, Place

AGENT = Agent("agent-0", "verifier", "host")


class Records:
    """Stands in for those of a Redis."""

    def __init__(self, *, away: bool = False) -> None:
        self.away = away
        self.beats = 0
        self.left = False

    async def beat(self, *_: object) -> Answer:
        self.beats += 1
        if self.away:
            await asyncio.sleep(60)
        return Answer(None, stop=False, run="led")

    async def leave(self, agent_id: str, held: Order | None, why: str) -> None:
        if self.away:
            await asyncio.sleep(60)
        self.left = True


def loop_with(records: Records, folder: Path, alive_file: Path | None = None) -> AgentLoop:
    return AgentLoop(cast(AgentRecords, records), AGENT, Place(folder, "redis://h", alive_file=alive_file))


async def runs_for(loop: AgentLoop, seconds: float) -> None:
    asyncio.get_running_loop().call_later(seconds, loop.leave)
    await loop.run()


def test_it_leaves_when_it_is_told_to_also_while_redis_is_away(tmp_path: Path) -> None:
    records, began = Records(away=True), time.monotonic()
    asyncio.run(runs_for(loop_with(records, tmp_path), 0.1))
    assert time.monotonic() - began < 5
    assert (records.beats, records.left) == (1, False)


def test_a_health_file_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = Records()
    with caplog.at_level(logging.WARNING):
        asyncio.run(runs_for(loop_with(records, tmp_path, tmp_path / "none/alive"), 1.3))
    assert records.beats >= 2
    assert records.left
    (warning,) = caplog.messages
    assert "--alive-file is not written, so health checks may fail" in warning
