"""What happens to a run, as one queue: scored groups, finished steps, published versions, members, memory."""

import asyncio
import math
from typing import NamedTuple

from dapo.bus import Delivery
from dapo.bus.keys import SCORED
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import Alert, Emit, ServiceChanged
from dapo.v1 import messages_pb2 as pb

WORKER_ID = "orchestrator-0"
ROLE = "orchestrator"
_BLOCK_S = 1.0
_VERSION_POLL_S = 0.02
_MEMBER_POLL_S = 0.5
_MEMORY_POLL_S = 1.0
_HEARTBEAT_S = 3.0
_CLAIM_S = 3.0
_SCORED_AT_ONCE = 256


class Scored(NamedTuple):
    """Groups whose last response was graded, or that failed."""

    deliveries: list[Delivery]


class Step(NamedTuple):
    """The learner has trained a batch."""

    report: pb.StepReport


class Published(NamedTuple):
    """Version `step` is served by every joined generator."""

    step: int


class Memory(NamedTuple):
    """The memory in use was looked at."""

    used: int
    """Bytes that the run's payloads take."""


Item = Scored | Step | Published | Memory


class Inbox:
    """Follows the bus and puts what is new into `items`, for the one task that decides.

    Each follower is a task: the stream of scored groups, step reports, the published version (every 20 ms), members,
    memory (every second), and this process's own heartbeat. Members become no items: a `service` event is emitted when
    a generator changes state. A scored group is acknowledged by its settlement, so what was not settled is delivered
    again to a successor, which claims it. Of step reports those behind `steps_done` are read.
    """

    def __init__(self, bus: OrchestratorBus, emit: Emit, *, evaluates_only: bool, steps_done: int) -> None:
        """`evaluates_only`: there is no learner, so version 0 counts as published once a generator serves it.
        `steps_done`: of so many steps the reports were dealt with before."""
        self._bus = bus
        self._emit = emit
        self._evaluates_only = evaluates_only
        self._steps_done = steps_done
        self.items: asyncio.Queue[Item] = asyncio.Queue()

    async def run(self) -> None:
        """Until cancelled. Raises BusError."""
        followers = (self._beat, self._scored, self._steps, self._versions, self._members, self._memory)
        tasks = [asyncio.create_task(follower()) for follower in followers]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    async def _beat(self) -> None:
        told = 0
        while True:
            await self._bus.registry.beat(ROLE, WORKER_ID)
            if (outage := self._bus.last_outage) is not None and outage.number > told:
                told = outage.number
                message = f"Redis did not answer for {outage.lasted_s:.1f} s; the run goes on"
                await self._emit(Alert(cause="redis_outage", message=message))
            await asyncio.sleep(_HEARTBEAT_S)

    async def _scored(self) -> None:
        # From its first heartbeat on, what a predecessor had taken is a dead consumer's.
        await self._bus.registry.beat(ROLE, WORKER_ID)
        claimed_at = -math.inf
        while True:
            deliveries: list[Delivery] = []
            if (now := asyncio.get_running_loop().time()) - claimed_at >= _CLAIM_S:
                deliveries = await self._bus.streams.claim_dead(SCORED, ROLE, WORKER_ID, count=_SCORED_AT_ONCE)
                # As long as there are some there may be more.
                claimed_at = -math.inf if deliveries else now
            if not deliveries:
                deliveries = await self._bus.streams.consume(SCORED, WORKER_ID, count=_SCORED_AT_ONCE, block_s=_BLOCK_S)
            if deliveries:
                await self.items.put(Scored(deliveries))

    async def _steps(self) -> None:
        after = f"{self._steps_done}-0"
        while True:
            for entry_id, report in await self._bus.batches.read_steps(after, block_s=_BLOCK_S):
                after = entry_id
                await self.items.put(Step(report))

    async def _versions(self) -> None:
        seen: int | None = None
        while True:
            version = await self._bus.weights.published_version()
            if version is not None and version.step != seen:
                seen = version.step
                await self.items.put(Published(seen))
            await asyncio.sleep(_VERSION_POLL_S)

    async def _members(self) -> None:
        """Tell watchers when a generator changes state or is lost."""
        states: dict[str, str] = {}
        served = False
        while True:
            members = await self._bus.weights.members()
            now = {m.generator_id: "ready" if m.state == "updating" else m.state for m in members}
            for generator, state in now.items():
                if states.get(generator) != state:
                    await self._emit(ServiceChanged(worker_id=generator, role="generator", state=state))
            if self._evaluates_only and not served and any(m.HasField("version") for m in members):
                served = True
                await self.items.put(Published(0))
            states = now
            await asyncio.sleep(_MEMBER_POLL_S)

    async def _memory(self) -> None:
        while True:
            await self.items.put(Memory(await self._bus.payloads.used_bytes()))
            await asyncio.sleep(_MEMORY_POLL_S)
