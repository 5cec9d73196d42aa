"""Agents and services of different releases on one Redis: neither ends over what it cannot read."""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable

import pytest

import dapo
from dapo.bus import Bus
from dapo.bus.agents import Agent, AgentRecords, Order
from dapo.bus.keys import AGENTS
from dapo.bus.server.embedded import EmbeddedValkey
from services.orchestrator.launch.attached.census import Census

MINE = Agent("mine", "verifier", "box")


def play(url: str, scenario: Callable[[AgentRecords, Bus], Awaitable[None]]) -> None:
    async def main() -> None:
        records, bus = await AgentRecords.connect(url), await Bus.connect(url, "run")
        try:
            await scenario(records, bus)
        finally:
            await bus.close()
            await records.close()

    asyncio.run(main())


async def put(bus: Bus, agent_id: str, **record: str) -> None:
    client = bus.control_server.client
    await client.sadd(AGENTS, agent_id)
    await client.hset(f"{AGENTS}:{agent_id}", mapping=record)


def test_a_service_passes_over_records_that_it_cannot_read(
    valkey: EmbeddedValkey, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(records: AgentRecords, bus: Bus) -> None:
        newer = {"agent_id": "newer", "role": "verifier", "host": "box", "release": "9.0", "of_9_0": [1]}
        await records.beat(MINE)
        await put(bus, "newer", agent=json.dumps(newer))
        await put(bus, "other", agent=json.dumps({"id": "other"}))
        await put(bus, "broken", agent="{")
        await put(bus, "typed", agent=json.dumps(newer | {"gpus": "many"}))
        await put(bus, "odd", agent=json.dumps(newer), order="[]")
        census = Census(records)
        for _ in range(2):
            await census.take()
        assert {one.agent.agent_id: one.agent.release for one in census.latest} == {
            "mine": dapo.__version__,
            "newer": "9.0",
        }
        assert await bus.control_server.client.scard(AGENTS) == 6, "another service may be able to read them"

    with caplog.at_level(logging.WARNING, "dapo.bus.agents"):
        play(valkey.url, scenario)
    said = [message for message in caplog.messages if "cannot be read" in message]
    assert len(said) == 4
    assert all(f"perhaps of another release than {dapo.__version__}" in message for message in said)


def test_an_agent_goes_on_whatever_order_it_is_given(valkey: EmbeddedValkey) -> None:
    async def scenario(records: AgentRecords, bus: Bus) -> None:
        order = Order("run", "verifier-0", "verifier", "services.verifier", "runs/run")
        await records.beat(MINE)
        await records.place(MINE.agent_id, order, await bus.lease.take("service", 600))
        found = (await records.beat(MINE)).order
        assert found is not None
        assert found.worker_id == "verifier-0"
        told = {"run_id": "run", "worker_id": "verifier-0", "role": "verifier", "module": "m", "folder": "f"}
        for told_now, read in ((told | {"cpus": 2}, True), ({"worker": "verifier-0"}, False)):
            stored = json.dumps({"number": found.number, "told": json.dumps(told_now)})
            await bus.control_server.client.hset(f"{AGENTS}:{MINE.agent_id}", "order", stored)
            assert ((await records.beat(MINE)).order is not None) == read

    play(valkey.url, scenario)
