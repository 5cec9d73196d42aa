"""What a run's payloads take is counted by the scripts that write and delete them, on a real Valkey."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dapo.bus import Bus, BusFull
from dapo.bus.parts.part import KEY_BYTES
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.v1 import messages_pb2 as pb
from tests.support.bus import (
    RUN,
    drive,
    generate,
    group_id,
    issue,
    make_batch,
    make_completion,
    make_kept,
    make_scored,
    store,
    stored_payloads,
)

SLOTS = 6
Blobs = dict[int, bytes]


async def measured(bus: Bus) -> int:
    """What the count should say, from the blobs themselves."""
    client = bus.payload_server.client
    return sum([await client.strlen(key) + KEY_BYTES for key in await stored_payloads(bus)])


def key(bus: Bus, slot: int) -> str:
    make = bus.payloads.payload_key if slot % 2 else bus.payloads.text_key
    return make(group_id(slot), 0, 0)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.dictionaries(st.integers(0, SLOTS - 1), st.binary(max_size=300))
        | st.lists(st.integers(0, SLOTS - 1), max_size=8),
        max_size=12,
    )
)
def test_the_count_agrees_with_the_blobs_after_every_write_and_deletion(
    valkey: EmbeddedValkey, moves: list[Blobs | list[int]]
) -> None:
    """Keys written over, deleted twice and never written are among them."""

    async def scenario(bus: Bus) -> None:
        await bus.runs.delete()
        for move in moves:
            if isinstance(move, dict):
                await bus.payloads.put({key(bus, slot): blob for slot, blob in move.items()})
            else:
                await bus.payloads.delete([key(bus, slot) for slot in move])
            assert await bus.payloads.used_bytes() == await measured(bus)

    drive(valkey.url, scenario)


async def duplicate(bus: Bus) -> None:
    """Two workers finish the same responses; what loses is deleted."""
    await issue(bus, 1)
    for attempt in range(2):
        completions = [make_completion(bus, group_id(0), index, attempt) for index in range(4)]
        await store(bus, completions)
        await bus.groups.write_completions(completions)


async def filtered(bus: Bus) -> None:
    epoch, deliveries = await make_scored(bus, 3)
    await bus.groups.settle(deliveries[0], group_id(0), "filtered", "all wrong", epoch)
    await bus.groups.settle(deliveries[1], group_id(1), "kept", "", epoch)


async def failed(bus: Bus) -> None:
    await issue(bus, 2)
    await generate(bus, await bus.streams.consume("prompts", "generator-0", count=2, block_s=0))
    await bus.groups.fail(group_id(0), "grader_failed")


async def refilled(bus: Bus) -> None:
    await issue(bus, 1)
    await generate(bus, await bus.streams.consume("prompts", "generator-0", count=1, block_s=0))
    (lost, *_) = await bus.streams.consume("completions", "verifier-0", count=4, block_s=0)
    await bus.groups.refill(lost)


async def checkpointed(bus: Bus) -> None:
    await bus.batches.cut(make_batch(bus, 0, [0, 1]), await make_kept(bus, 3))
    learner = await bus.lease.acquire("learner")
    await bus.batches.record_step(pb.StepReport(batch=0), [group_id(0), group_id(1)], learner)
    await bus.batches.commit_checkpoint(0, learner)


async def drained(bus: Bus) -> None:
    epoch, _ = await make_scored(bus, 3)
    await bus.groups.close_open("run complete", epoch)


async def put_back(bus: Bus) -> None:
    epoch, _ = await make_scored(bus, 3)
    await bus.decisions.begin_at(0, None, epoch)


async def deleted(bus: Bus) -> None:
    await make_scored(bus, 3)
    await bus.runs.delete_work()


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("life", [duplicate, filtered, failed, refilled, checkpointed, drained, put_back, deleted])
def test_whatever_becomes_of_a_group_its_bytes_are_counted(
    valkey: EmbeddedValkey, tmp_path: Path, life: Callable[[Bus], Awaitable[None]], apart: bool
) -> None:
    async def scenario(bus: Bus) -> None:
        await life(bus)
        assert await bus.payloads.used_bytes() == await measured(bus)
        assert bool(await stored_payloads(bus)) == (life not in (drained, put_back, deleted))

    with EmbeddedValkey(tmp_path, memory_mib=16) as payload:
        drive(valkey.url, scenario, payload_url=payload.url if apart else None)


def test_what_a_full_server_refuses_is_not_counted(tmp_path: Path) -> None:
    async def scenario(bus: Bus) -> None:
        blobs = {bus.payloads.payload_key(group_id(0), index, 0): bytes(1 << 18) for index in range(200)}
        with pytest.raises(BusFull):
            await bus.payloads.put(blobs)
        assert 0 < len(await stored_payloads(bus)) < 200
        assert await bus.payloads.used_bytes() == await measured(bus)

    with EmbeddedValkey(tmp_path, memory_mib=16) as server:
        drive(server.url, scenario)


def test_each_run_on_a_server_counts_its_own(valkey: EmbeddedValkey) -> None:
    async def main() -> None:
        mine, other = [await Bus.connect(valkey.url, name) for name in (RUN, "other")]
        await mine.payloads.put({key(mine, 0): b"mine"})
        await other.payloads.put({key(other, slot): bytes(1000) for slot in range(SLOTS)})
        assert await mine.payloads.used_bytes() == 4 + KEY_BYTES
        await other.runs.delete()
        assert (await mine.payloads.used_bytes(), await other.payloads.used_bytes()) == (4 + KEY_BYTES, 0)
        for bus in (mine, other):
            await bus.close()

    asyncio.run(main())
