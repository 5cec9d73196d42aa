"""What is counted of runs on one server, in one round trip."""

import asyncio

from dapo.bus import Bus
from dapo.bus.failures import FailureReason
from dapo.bus.keys import METRICS_ADDRESS
from dapo.bus.measures import measure, memory, metrics_addresses, payload_bytes
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.v1 import messages_pb2 as pb
from tests.support.bus import RUN, drive, generate, group_id, issue

WORKERS = {"generator": ["generator-0", "generator-1"], "verifier": ["verifier-0"]}


def test_each_run_is_counted_by_itself(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        other = await Bus.connect(valkey.url, "other-run", instance="process-1")
        await issue(bus, 3)
        await generate(bus, await bus.streams.consume("prompts", "generator-0", count=1, block_s=0))
        await bus.groups.fail(group_id(2), FailureReason.GENERATION_FAILED)
        for worker in ("generator-0", "verifier-0"):
            await bus.registry.beat(worker.partition("-")[0], worker)
        for number, state in enumerate(("ready", "starting")):
            await bus.weights.publish_member(pb.Member(generator_id=f"generator-{number}", state=state))
        found = await measure(bus.control_server, {RUN: WORKERS, "other-run": WORKERS})
        mine, theirs = found[RUN], found["other-run"]
        assert dict(mine.groups) == await bus.groups.ledger()
        assert (mine.issued, sum(mine.groups.values()), mine.dead_letters) == (3, 3, 1)
        for stream in ("prompts", "completions"):
            assert mine.streams[stream] == await bus.streams.length(stream)
        assert mine.alive == {"generator-0", "verifier-0"}
        # The record of a generator that is dead stays for a while.
        assert [member.generator_id for member in mine.members] == ["generator-0"]
        assert (theirs.issued, theirs.dead_letters, theirs.alive, theirs.members) == (0, 0, frozenset(), [])
        used = await payload_bytes(bus.payload_server, [RUN, "other-run"])
        assert used == {RUN: await bus.payloads.used_bytes(), "other-run": 0}
        assert used[RUN] > 0
        await other.close()

    drive(valkey.url, scenario)


def test_a_worker_says_with_each_beat_where_it_is_scraped_until_it_beats_no_more(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus, reader: Bus) -> None:
        bus.registry.advertise(METRICS_ADDRESS.format("generator-0"), "127.0.0.1:9000")
        asked = {RUN: ["generator-0", "generator-1"], "none": ["verifier-0"]}
        assert await metrics_addresses(reader.control_server, asked) == {RUN: {}, "none": {}}
        await bus.registry.beat("generator", "generator-0", ttl_s=0.3)
        told = {RUN: {"generator-0": "127.0.0.1:9000"}, "none": {}}
        assert await metrics_addresses(reader.control_server, asked) == told
        await asyncio.sleep(0.4)
        assert await metrics_addresses(reader.control_server, asked) == {RUN: {}, "none": {}}

    drive(valkey.url, scenario, buses=2)


def test_the_memory_of_a_server(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        used, limit = await memory(bus.control_server)
        assert 0 < used < 2**30
        assert limit in (0, 256 * 2**20)

    drive(valkey.url, scenario)
