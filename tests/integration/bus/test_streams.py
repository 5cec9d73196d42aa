"""Consumers that live, die, come back and lose connections, on a real Valkey."""

import asyncio

import pytest

from dapo.bus import RETRIES, Bus, attempt_number
from dapo.bus.failures import FailureReason
from dapo.bus.parts import streams
from dapo.bus.server.embedded import EmbeddedValkey
from tests.support.bus import (
    drive,
    generate,
    grade,
    group_id,
    issue,
    losing_deliveries,
    make_completion,
    reads_outliving_their_cancellation,
    store,
    stored_payloads,
    stream_length,
)


def test_work_is_shared_and_delivered_once(valkey: EmbeddedValkey) -> None:
    async def scenario(first: Bus, second: Bus) -> None:
        await issue(first, 10)
        one = await first.streams.consume("prompts", "generator-0", count=6, block_s=0)
        two = await second.streams.consume("prompts", "generator-1", count=6, block_s=0)
        assert (len(one), len(two)) == (6, 4)
        assert not {delivery.data for delivery in one} & {delivery.data for delivery in two}

    drive(valkey.url, scenario, buses=2)


def test_a_blocked_consumer_wakes_up_for_work(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus, other: Bus) -> None:
        waiting = asyncio.create_task(bus.streams.consume("prompts", "generator-0", count=1, block_s=60))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        await issue(other, 1)
        assert [one.data for one in await waiting] == [b"g0000000000"]
        assert await bus.streams.consume("prompts", "generator-0", count=1, block_s=0.05) == []

    drive(valkey.url, scenario, buses=2)


def test_the_slow_keep_their_work_and_the_dead_lose_it(valkey: EmbeddedValkey) -> None:
    async def scenario(slow: Bus, dead: Bus, peer: Bus) -> None:
        await issue(peer, 4)
        await slow.registry.beat("generator", "generator-0", ttl_s=60)
        await dead.registry.beat("generator", "generator-1", ttl_s=60)
        await slow.streams.consume("prompts", "generator-0", count=2, block_s=0)
        lost = await dead.streams.consume("prompts", "generator-1", count=2, block_s=0)
        assert await peer.streams.claim_dead("prompts", "generator", "generator-2", count=10) == []
        await dead.registry.beat("generator", "generator-1", ttl_s=0.1)
        await asyncio.sleep(0.2)
        assert await peer.control_server.client.exists(peer.keys.heartbeat("generator", "generator-1")) == 0
        claimed = await peer.streams.claim_dead("prompts", "generator", "generator-2", count=10)
        assert [(one.message_id, one.data) for one in claimed] == [(one.message_id, one.data) for one in lost]
        assert [one.attempt for one in claimed] == [2, 2]
        assert await peer.streams.claim_dead("prompts", "generator", "generator-2", count=10) == [], (
            "however long they idle"
        )
        left = [b"generator-0/process0", b"generator-2/process2"]
        assert await consumers(peer, "prompts", "generator") == left, "the dead consumer is forgotten"

    drive(valkey.url, scenario, buses=3)


def test_claims_come_in_portions_and_never_twice(valkey: EmbeddedValkey) -> None:
    async def scenario(dead: Bus, left: Bus, right: Bus) -> None:
        await issue(dead, 9)
        await dead.streams.consume("prompts", "generator-0", count=9, block_s=0)
        await dead.control_server.client.delete(dead.keys.heartbeat("generator", "generator-0"))
        portions = await asyncio.gather(
            *(
                bus.streams.claim_dead("prompts", "generator", f"generator-{at}", count=3)
                for at, bus in ((1, left), (2, right)) * 2
            )
        )
        claimed = [one.data for portion in portions for one in portion]
        assert len(claimed) == len(set(claimed)) == 9

    drive(valkey.url, scenario, buses=3)


def test_a_restarted_worker_gets_back_what_its_predecessor_held(valkey: EmbeddedValkey) -> None:
    async def scenario(before: Bus, after: Bus) -> None:
        await issue(before, 1)
        await before.registry.beat("generator", "generator-0", ttl_s=60)
        (held,) = await before.streams.consume("prompts", "generator-0", count=1, block_s=0)
        await after.registry.beat("generator", "generator-0", ttl_s=60)
        assert await after.streams.consume("prompts", "generator-0", count=1, block_s=0) == []
        (claimed,) = await after.streams.claim_dead("prompts", "generator", "generator-0", count=1)
        assert (claimed.message_id, claimed.attempt) == (held.message_id, 2)

    drive(valkey.url, scenario, buses=2)


def test_a_worker_that_never_beat_is_alive_from_its_first_read(valkey: EmbeddedValkey) -> None:
    async def scenario(fresh: Bus, peer: Bus) -> None:
        await issue(fresh, 1)
        await fresh.streams.consume("prompts", "generator-0", count=1, block_s=0)
        assert await peer.streams.claim_dead("prompts", "generator", "generator-1", count=1) == []

    drive(valkey.url, scenario, buses=2)


def test_a_delivery_that_was_cut_off_is_handed_out_later(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has delivered, the reply never arrives: the entries would be pending for ever with a living worker."""
    monkeypatch.setattr(streams, "BLOCK_SLICE_S", 1.0)

    async def scenario(bus: Bus, other: Bus) -> None:
        await issue(other, 2)
        kept = await bus.streams.consume("prompts", "generator-0", count=1, block_s=0)
        await asyncio.sleep(0.05)
        with losing_deliveries(bus):
            assert await bus.streams.consume("prompts", "generator-0", count=1, block_s=0) == []

        await issue(other, 3)
        (third,) = await bus.streams.consume("prompts", "generator-0", count=5, block_s=0)
        assert third.data == b"g0000000002"
        await asyncio.sleep(1.2)
        (found,) = await bus.streams.consume("prompts", "generator-0", count=5, block_s=0)
        assert (found.data, found.attempt) == (b"g0000000001", 2)
        assert kept[0].data == b"g0000000000"
        assert await bus.streams.consume("prompts", "generator-0", count=5, block_s=0) == []

    drive(valkey.url, scenario, buses=2)


async def consumers(bus: Bus, stream: str, role: str) -> list[bytes]:
    found = await bus.control_server.client.xinfo_consumers(bus.keys.stream(stream), role)
    return sorted(one["name"] for one in found)


def test_what_is_handed_back_is_delivered_at_once_under_a_new_number(valkey: EmbeddedValkey) -> None:
    async def scenario(tired: Bus, fresh: Bus) -> None:
        await issue(tired, 1)
        (first,) = await tired.streams.consume("prompts", "generator-0", count=4, block_s=0)
        waiting = asyncio.create_task(fresh.streams.consume("prompts", "generator-1", count=4, block_s=60))
        await asyncio.sleep(0.1)
        await tired.streams.hand_back("prompts", "generator-0", first, lost=True)
        (second,) = await waiting
        assert (second.data, second.attempt, second.losses) == (first.data, 2, 1)
        for held in (first, second):
            await tired.streams.hand_back("prompts", "generator-0", held, lost=True)
        assert await fresh.streams.consume("prompts", "generator-1", count=4, block_s=0) == [], "it is another's by now"
        await generate(fresh, [second])
        assert await stream_length(fresh, "prompts") == 0
        await fresh.streams.hand_back("prompts", "generator-1", second, lost=True)
        assert await stream_length(fresh, "prompts") == 0, "nothing is missing"

    drive(valkey.url, scenario, buses=2)


def test_numbers_go_on_over_claims_and_losses_are_forgotten_with_a_response(valkey: EmbeddedValkey) -> None:
    async def scenario(dying: Bus, peer: Bus) -> None:
        await issue(dying, 1)
        (first,) = await dying.streams.consume("prompts", "generator-0", count=1, block_s=0)
        await dying.streams.hand_back("prompts", "generator-0", first, lost=False)
        (second,) = await dying.streams.consume("prompts", "generator-0", count=1, block_s=0)
        await dying.control_server.client.delete(dying.keys.heartbeat("generator", "generator-0"))
        (third,) = await peer.streams.claim_dead("prompts", "generator", "generator-1", count=1)
        assert [(one.attempt, one.losses) for one in (first, second, third)] == [(1, 0), (2, 0), (3, 1)]
        late = make_completion(peer, group_id(0), 0, attempt_number(third.attempt, RETRIES - 1))
        await store(peer, [late])
        await peer.groups.write_completions([late])
        await peer.streams.hand_back("prompts", "generator-1", third, lost=True)
        (fourth,) = await peer.streams.consume("prompts", "generator-1", count=1, block_s=0)
        assert (fourth.attempt, fourth.losses) == (4, 1)
        assert await peer.groups.missing_indices(group_id(0)) == [1, 2, 3]
        await peer.groups.fail(group_id(0), "generation_failed", stream="prompts", delivery=fourth)
        assert await stored_payloads(peer) == set(), "payloads of all deliveries are swept"

    drive(valkey.url, scenario, buses=2)


def test_whoever_leaves_hands_all_back_and_is_forgotten(valkey: EmbeddedValkey) -> None:
    async def scenario(leaving: Bus, peer: Bus) -> None:
        await leaving.streams.leave("prompts", "generator-0")
        await issue(leaving, 3)
        taken = await leaving.streams.consume("prompts", "generator-0", count=1, block_s=0)
        await generate(leaving, taken)
        await leaving.streams.consume("prompts", "generator-0", count=2, block_s=0)
        await leaving.streams.leave("prompts", "generator-0")
        found = await peer.streams.consume("prompts", "generator-1", count=4, block_s=0)
        assert [(one.data, one.attempt, one.losses) for one in found] == [
            (b"g0000000001", 2, 0),
            (b"g0000000002", 2, 0),
        ]
        assert await consumers(peer, "prompts", "generator") == [b"generator-1/process1"]

        held = await leaving.streams.consume("completions", "verifier-0", count=4, block_s=0)
        await leaving.streams.leave("completions", "verifier-0")
        again = await peer.streams.consume("completions", "verifier-1", count=4, block_s=0)
        assert [one.data for one in again] == [one.data for one in held] != []
        await peer.groups.write_grades([grade(one) for one in again])
        assert await stream_length(peer, "completions") == 0
        assert await consumers(peer, "completions", "verifier") == [b"verifier-1/process1"]

    drive(valkey.url, scenario, buses=2)


def test_what_is_handed_back_on_leaving_does_not_go_to_a_read_that_was_cancelled(valkey: EmbeddedValkey) -> None:
    """The server may still serve it: a connection that the client has closed is seen to be closed only later."""

    async def scenario(leaving: Bus, peer: Bus) -> None:
        await issue(leaving, 1)
        await leaving.streams.consume("prompts", "generator-0", count=1, block_s=0)
        with reads_outliving_their_cancellation(leaving):
            reading = asyncio.create_task(leaving.streams.consume("prompts", "generator-0", count=1, block_s=0.5))
            await asyncio.sleep(0.1)
            reading.cancel()
            await asyncio.wait({reading})
        await leaving.streams.leave("prompts", "generator-0")
        (found,) = await peer.streams.consume("prompts", "generator-1", count=1, block_s=0)
        assert (found.attempt, found.losses) == (2, 0)
        assert await consumers(peer, "prompts", "generator") == [b"generator-1/process1"]

    drive(valkey.url, scenario, buses=2)


def test_entries_that_cannot_be_read_go_to_the_dead_letters(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        await issue(bus, 2)
        prompts = await bus.streams.consume("prompts", "generator-0", count=2, block_s=0)
        spoilt: list[dict[str, bytes]] = [
            {"data": b"\xff\xff\xff", "group": b"g0000000000"},
            {"data": b"\xff\xff\xff", "group": b"../g"},
            {"other": b"x"},
            {"data": make_completion(bus, "nonsense", 0).SerializeToString()},
        ]
        for fields in spoilt:
            await bus.control_server.client.xadd(bus.keys.stream("completions"), fields)
        await bus.control_server.client.xadd(bus.keys.stream("prompts"), {"data": b"\x00" * 100})
        await generate(bus, prompts[1:])

        good = await bus.streams.consume("completions", "verifier-0", count=100, block_s=0)
        assert len(good) == 4
        assert await bus.streams.consume("prompts", "generator-0", count=10, block_s=0) == []
        letters = await bus.dead_letters.read()
        assert len(letters) == 5
        assert {one["reason"] for one in letters} == {"malformed"}
        assert letters[-1]["group"] == group_id(0)
        assert bytes.fromhex(letters[-1]["data"]) == b"\xff\xff\xff"
        record = await bus.groups.read(group_id(0))
        assert (record.state, record.reason) == ("failed", "malformed"), "nobody waits for a completion that is lost"
        assert await stream_length(bus, "completions") == 4
        assert await stream_length(bus, "prompts") == 0

    drive(valkey.url, scenario)


def test_roles_and_streams_must_match(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        with pytest.raises(ValueError, match="'prompts' is consumed by role 'generator', not 'verifier'"):
            await bus.streams.claim_dead("prompts", "verifier", "verifier-0", count=1)
        with pytest.raises(ValueError, match="stream 'grades' is none of"):
            await bus.streams.consume("grades", "verifier-0", count=1, block_s=0)

    drive(valkey.url, scenario)


def test_who_has_the_oldest_entry_of_an_open_group(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        async def holder(stream: str) -> tuple[str, int | None, str, bool]:
            found = await bus.streams.oldest(stream)
            assert found is not None
            assert 0 <= found.held_s < 60
            return found.group_id, found.response, found.worker_id, found.alive

        assert await bus.streams.oldest("prompts") is None
        await issue(bus, 3, size=1)
        assert await holder("prompts") == (group_id(0), None, "", False)
        first, second = await bus.streams.consume("prompts", "generator-0", count=2, block_s=0)
        assert await holder("prompts") == (group_id(0), None, "generator-0", True)
        await generate(bus, [first])
        assert await holder("prompts") == (group_id(1), None, "generator-0", True)
        await generate(bus, [second])
        assert await holder("prompts") == (group_id(2), None, "", False)
        assert await holder("completions") == (group_id(0), 0, "", False)
        await bus.groups.fail(group_id(0), FailureReason.STALLED)
        assert await holder("completions") == (group_id(1), 0, "", False)
        assert await bus.streams.length("completions") == 2

    drive(valkey.url, scenario)
