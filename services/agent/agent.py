"""The loop of an agent."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from dapo.bus import BusError
from dapo.bus.agents import Agent, AgentRecords, Answer, Order
from dapo.host.files import write_text
from dapo.host.storage import in_words
from services.agent.child import Child
from services.agent.rule import ORPHANED_S, Move, next_move, refusal

log = logging.getLogger(__name__)

_BEAT_S = 0.5
_LOG_S = 5.0
"""The end of a worker's log is told so often, and when it has ended."""
_LEAVE_S = 20.0
"""How long an agent that is asked to leave waits for its child."""
_SAY_S = 3.0
"""And then for Redis: its record lapses soon."""

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """What an agent has to give to workers."""

    work_dir: Path
    """Where this host has the run service's folder."""
    redis_url: str
    devices: Sequence[str] = ()
    """As in CUDA_VISIBLE_DEVICES."""
    address: str = ""
    """That workers advertise; "": the one from which this host reaches Redis."""
    alive_file: Path | None = None
    """Written anew with every beat that was answered."""


class AgentLoop:
    """Beats twice a second: says what the agent has and is told what it is to have.

    Parts: the records on the bus, the rule that decides (rule.py), and at most one Child.
    Promises: one worker at a time, and none whose order was taken away: its process is ended as soon as the agent is
    told. Until then the process writes nothing, as its epoch is over. A Redis that is away is waited for, `outage_s` of
    the records at most; then the agent ends its worker and itself. Told to leave, it takes no order any more, lets its
    worker end in order, and says so.
    Restart: nothing is kept. An agent that starts anew is another one.
    """

    def __init__(self, records: AgentRecords, agent: Agent, place: Place) -> None:
        self._records = records
        self._agent = agent
        self._place = place
        self._child: Child | None = None
        self._leaving = asyncio.Event()
        self._led_at = self._told_at = 0.0
        self._unwritten = ""
        """Why the alive file could not be written the last time."""

    def leave(self) -> None:
        """Have `run` return once the worker has ended."""
        self._leaving.set()

    async def run(self) -> None:
        """Until `leave`. Raises BusError once Redis was away for too long, with the worker ended."""
        try:
            while not self._leaving.is_set():
                if (answer := await self._unless_leaving(self._beat())) is not None:
                    await self._act(answer)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._leaving.wait(), _BEAT_S)
        finally:
            await self._go()

    async def _beat(self) -> Answer:
        child, now = self._child, time.monotonic()
        if child is not None and child.ended_by_itself:
            child.begin_end("what it may have left goes, too")
        if child is None:
            answer = await self._records.beat(self._agent)
        else:
            report, tail = child.report(), ""
            if report.state in ("exited", "failed") or now - self._told_at >= _LOG_S:
                tail, self._told_at = await asyncio.to_thread(child.log_end), now
            answer = await self._records.beat(self._agent, child.order, report, tail)
        if answer.run == "led":
            self._led_at = time.monotonic()
        if self._place.alive_file is not None:
            await self._tell_alive(self._place.alive_file)
        return answer

    async def _unless_leaving(self, call: Coroutine[Any, Any, T]) -> T | None:
        """None where the agent is to leave before Redis answers, which may take `outage_s` of the records."""
        asked, leaving = asyncio.create_task(call), asyncio.create_task(self._leaving.wait())
        try:
            await asyncio.wait({asked, leaving}, return_when=asyncio.FIRST_COMPLETED)
            return asked.result() if asked.done() else None
        finally:
            asked.cancel()
            leaving.cancel()
            await asyncio.gather(asked, leaving, return_exceptions=True)

    async def _tell_alive(self, file: Path) -> None:
        """A health check that cannot be told is no reason to end a worker."""
        unwritten = ""
        try:
            await asyncio.to_thread(write_text, file, f"{self._agent.agent_id}\n")
        except OSError as error:
            unwritten = in_words(error, file)
        if unwritten and unwritten != self._unwritten:
            log.warning("--alive-file is not written, so health checks may fail: %s", unwritten)
        self._unwritten = unwritten

    async def _act(self, answer: Answer) -> None:
        child = self._child
        held = child.order if child is not None else None
        runs, unled_s = child is not None and child.runs, time.monotonic() - self._led_at
        move = next_move(held, runs=runs, answer=answer, leaving=self._leaving.is_set(), unled_s=unled_s)
        if move == Move.START:
            await self._start(answer)
        elif move == Move.END and child is not None:
            orphaned = f"nobody has led its run for {ORPHANED_S:g} s"
            child.begin_end(orphaned if unled_s >= ORPHANED_S else "it was withdrawn")
        elif move == Move.CLEAR and (order := held or answer.order) is not None:
            await self._unless_leaving(self._clear(order))

    async def _clear(self, order: Order) -> None:
        await self._records.clear(self._agent.agent_id, order)
        self._child = None

    async def _start(self, answer: Answer) -> None:
        order = answer.order
        assert order is not None, "there is no order to start"
        root = self._place.work_dir.resolve()
        run_dir = (root / order.folder).resolve()
        self._child = child = Child(order, run_dir)
        self._led_at, self._told_at = time.monotonic(), 0.0
        why = refusal(order, self._agent.role)
        if not run_dir.is_relative_to(root):
            why = why or f"the run's folder {order.folder} is not below --work-dir {root}"
        if 0 < len(self._place.devices) < order.gpus:  # without any, a worker makes do or says so itself
            why = why or f"the order wants {order.gpus} GPUs, and this agent has {len(self._place.devices)}"
        if why:
            return child.refuse(why)
        await child.start(self._place.redis_url, self._place.devices[: order.gpus], self._place.address)

    async def _go(self) -> None:
        """The worker ends in order, and others hear of it. Where Redis does not answer, the record lapses."""
        child, why, within_s = self._child, f"{self._agent} was told to leave", _LEAVE_S
        self._agent = replace(self._agent, leaving=True)
        try:
            if child is not None:
                async with asyncio.timeout(within_s):
                    child.begin_end(why)
                    await self._beat_until(asyncio.create_task(child.ended()))
            within_s = _SAY_S
            async with asyncio.timeout(within_s):
                await self._records.leave(self._agent.agent_id, child.order if child is not None else None, why)
        except (BusError, TimeoutError) as error:
            log.warning("the agent has left without saying so: %s", str(error) or f"{within_s:g} s passed")

    async def _beat_until(self, ended: asyncio.Task[None]) -> None:
        """A Redis that is away keeps no process from being ended."""
        while not ended.done():
            try:
                async with asyncio.timeout(_BEAT_S):
                    await self._beat()
            except (BusError, TimeoutError) as error:
                log.debug("no beat while the worker ends: %s", error)
            await asyncio.wait({ended}, timeout=_BEAT_S)
        await ended
