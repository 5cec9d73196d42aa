"""What keeps an agent's loop from its work, and what does not."""

import asyncio
import logging
import time
from pathlib import Path
from typing import cast

import pytest

from dapo.bus.agents import Agent, AgentRecords, Answer, Order, Report
from dapo.spec.workloads import MODULES
from services.agent.agent import AgentLoop, Place

AGENT = Agent("agent-0", "verifier", "host")


class Records:
    """Stands in for those of a Redis."""

    def __init__(self, *, away: bool = False, order: Order | None = None) -> None:
        self.away = away
        self.order = order
        self.told: list[tuple[str, str]] = []
        self.beats = 0
        self.left = False

    async def beat(
        self, agent: Agent, held: Order | None = None, report: Report | None = None, log: str = ""
    ) -> Answer:
        self.beats += 1
        if report is not None:
            self.told.append((report.reason, log))
        if self.away:
            await asyncio.sleep(60)
        return Answer(self.order, stop=False, run="led")

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


def test_an_order_that_leads_out_of_the_folder_is_refused_and_nothing_read_there(tmp_path: Path) -> None:
    (tmp_path / "secret.log").write_text("secret")
    work = tmp_path / "work"
    for worker, folder in (("../../../../secret", "runs/run"), ("secret", "../..")):
        (work / "runs/run/logs").mkdir(parents=True, exist_ok=True)
        records = Records(order=Order("run", worker, "verifier", MODULES["verifier"], folder))
        asyncio.run(runs_for(loop_with(records, work), 1.3))
        (reason, log) = records.told[-1]
        assert "is no id of a run or worker" in reason or "is not below --work-dir" in reason
        assert log == ""
