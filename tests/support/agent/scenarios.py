"""What scripts about agents are called with, where they have something to do."""

from collections.abc import Sequence

from dapo.bus import Bus
from dapo.bus.agents import Agent, AgentRecords, Order
from dapo.bus.server.connection import Argument
from tests.support.bus import RUN

NONCE = "0123456789abcdef"
Arguments = Sequence[Argument]


async def place_on_one(bus: Bus) -> tuple[int, Order]:
    """The epoch of the run's workers, and the order that an agent has."""
    term, agent = await bus.lease.take("holder", 600), Agent("agent-0", "verifier", "host")
    records = AgentRecords(bus.control_server)
    await records.beat(agent)
    await records.place("agent-0", Order(RUN, "verifier-0", "verifier", "services.verifier", "runs/r"), term)
    held = (await records.beat(agent)).order
    assert held is not None
    return term, held


async def beat_agent(bus: Bus) -> Arguments:
    _, held = await place_on_one(bus)
    return "agent-0", 8000, "{}", "{}", held.number, held.worker_id, '{"state": "running"}', "a line"


async def clear_agent(bus: Bus) -> Arguments:
    _, held = await place_on_one(bus)
    return "agent-0", held.number


async def leave_agent(bus: Bus) -> Arguments:
    _, held = await place_on_one(bus)
    return "agent-0", held.worker_id, held.number, "told to leave"


async def place_worker(bus: Bus) -> Arguments:
    term = await bus.lease.take("holder", 600)
    await AgentRecords(bus.control_server).beat(Agent("agent-0", "verifier", "host"))
    return NONCE, term, "agent-0", "verifier-0", "verifier", "{}"


async def withdraw_worker(bus: Bus) -> Arguments:
    term, held = await place_on_one(bus)
    return term, held.worker_id, held.number, 1
