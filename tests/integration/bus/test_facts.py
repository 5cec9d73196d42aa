"""What is kept of a group for questions about it, on a real Valkey."""

import pytest

from dapo.bus import Bus, UnknownGroup
from dapo.bus.failures import FailureReason
from dapo.bus.parts.records import parse_facts
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.v1 import messages_pb2 as pb
from tests.support.bus import (
    drive,
    generate,
    group_id,
    issue,
    make_batch,
    make_completion,
    make_kept,
    make_scored,
    score,
    store,
)


async def trail(bus: Bus, number: int) -> list[tuple[str, ...]]:
    return [(mark.what, *mark.words) for mark in (await bus.groups.facts(group_id(number))).marks]


def test_the_trail_tells_each_state_with_its_time(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        before, _ = await bus.control_server.client.time()
        epoch = await make_kept(bus, 2, size=2)
        await bus.batches.cut(make_batch(bus, 0, [0], size=2), epoch)
        learner = await bus.lease.acquire("learner")
        await bus.batches.record_step(pb.StepReport(batch=0), [group_id(0)], learner)
        after, _ = await bus.control_server.client.time()
        facts = await bus.groups.facts(group_id(0))
        path = ["issued", "generated", "scored", "kept", "batched", "trained"]
        assert [mark.what for mark in facts.marks] == path
        times = [mark.at_ms for mark in facts.marks]
        assert times == sorted(times)
        assert before * 1000 <= times[0] <= times[-1] < (after + 1) * 1000
        assert (facts.batch, facts.deliveries, facts.letter_id, facts.ungraded) == (0, 1, "", [])
        assert (await bus.groups.facts(group_id(1))).batch is None
        with pytest.raises(UnknownGroup):
            await bus.groups.facts(group_id(7))

    drive(valkey.url, scenario)


def test_the_trail_tells_who_lost_a_try(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus, other: Bus) -> None:
        await issue(bus, 1, size=2)
        (first,) = await bus.streams.consume("prompts", "generator-0", count=1, block_s=0)
        await bus.streams.hand_back("prompts", "generator-0", first, lost=True)
        (_second,) = await bus.streams.consume("prompts", "generator-0", count=1, block_s=0)
        await bus.control_server.client.delete(bus.keys.heartbeat("generator", "generator-0"))
        (third,) = await other.streams.claim_dead("prompts", "generator", "generator-1", count=1)
        written = await generate(other, [third])
        taken = await bus.streams.consume("completions", "verifier-0", count=1, block_s=0)
        await bus.groups.refill(taken[0])
        assert await trail(bus, 0) == [
            ("issued",),
            ("handed_back", "generator-0/process0", "1"),
            ("claimed", "generator-0/process0", "generator-1/process1"),
            ("generated",),
            ("refilled", "0", "unknown", str(written[0].attempt)),
            ("issued",),
        ]
        assert (await bus.groups.facts(group_id(0))).deliveries == 4

    drive(valkey.url, scenario, buses=2)


def test_a_dead_verifiers_responses_are_told_to_have_changed_hands(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus, other: Bus) -> None:
        await issue(bus, 1, size=2)
        await generate(bus, await bus.streams.consume("prompts", "generator-0", count=1, block_s=0))
        await bus.streams.consume("completions", "verifier-0", count=1, block_s=0)
        await bus.control_server.client.delete(bus.keys.heartbeat("verifier", "verifier-0"))
        await other.streams.claim_dead("completions", "verifier", "verifier-1", count=2)
        assert (await trail(bus, 0))[-1] == ("claimed", "verifier-0/process0", "verifier-1/process1")

    drive(valkey.url, scenario, buses=2)


def test_a_trail_stays_short_and_counts_what_it_leaves_out(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        await issue(bus, 1)
        for _ in range(120):
            (delivery,) = await bus.streams.consume("prompts", "generator-0", count=1, block_s=0)
            await bus.streams.hand_back("prompts", "generator-0", delivery, lost=False)
        stored = await bus.control_server.client.hget(bus.keys.group(group_id(0)), "trail")
        facts = await bus.groups.facts(group_id(0))
        assert len(stored) <= 4096
        assert facts.marks_lost > 0
        assert len(facts.marks) + facts.marks_lost == 121
        assert facts.marks[0].what == "issued"

    drive(valkey.url, scenario)


def test_a_failed_group_names_its_letter(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        await issue(bus, 1)
        await bus.groups.fail(group_id(0), FailureReason.GRADER_FAILED, "boom")
        await bus.groups.fail(group_id(0), FailureReason.MALFORMED, "later")
        facts = await bus.groups.facts(group_id(0))
        letter = await bus.dead_letters.find(facts.letter_id)
        assert letter is not None
        assert (letter["reason"], letter["detail"]) == ("grader_failed", "boom")
        assert [mark.what for mark in facts.marks] == ["issued", "failed"]
        assert await bus.dead_letters.find("1-0") is None

    drive(valkey.url, scenario)


def test_what_is_known_outlives_the_payloads(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch, (scored,) = await make_scored(bus, 1, size=2)
        await bus.groups.settle(scored, group_id(0), "filtered", "all correct", epoch)
        facts = await bus.groups.facts(group_id(0))
        assert [grade.completion.index for grade in facts.record.grades] == [0, 1]
        assert [mark.what for mark in facts.marks][-1] == "filtered"
        ((found, fields),) = await bus.groups.stored()
        assert parse_facts("run", found, fields) == facts

    drive(valkey.url, scenario)


def test_who_holds_what_a_group_waits_for(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        await issue(bus, 2, size=2)
        (nobody,) = await bus.streams.holders("prompts", group_id(1), 0)
        assert (nobody.worker_id, nobody.alive, nobody.response) == ("", False, None)
        (delivery,) = await bus.streams.consume("prompts", "generator-0", count=1, block_s=0)
        (holder,) = await bus.streams.holders("prompts", group_id(0), 0)
        assert (holder.worker_id, holder.alive) == ("generator-0", True)
        one = make_completion(bus, group_id(0), 1)
        await store(bus, [one])
        await bus.groups.write_completions([one])
        (waiting,) = await bus.streams.holders("completions", group_id(0), 0)
        assert (waiting.response, waiting.worker_id) == (1, "")
        await bus.control_server.client.delete(bus.keys.heartbeat("generator", "generator-0"))
        (dead,) = await bus.streams.holders("prompts", group_id(0), 0)
        assert (dead.worker_id, dead.alive) == ("generator-0", False)
        assert await bus.streams.holders("prompts", group_id(1), 2**50) == []
        assert [one.message_id for one in await bus.streams.claim_dead("prompts", "generator", "g", count=9)]
        await generate(bus, [delivery])
        await score(bus)
        assert await bus.streams.holders("completions", group_id(0), 0) == []
        (waiting,) = await bus.streams.holders("scored", group_id(0), 0)
        assert (waiting.stream, waiting.worker_id) == ("scored", "")

    drive(valkey.url, scenario)
