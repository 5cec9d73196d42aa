"""Groups on a real Valkey: first write wins, exactly one announcement, nothing kept of what came too late."""

import asyncio
import random

import pytest

from dapo.bus import RETRIES, Bus, BusError, Delivery, LedgerError, Outcome, Settlement, UnknownGroup, attempt_number
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.v1 import messages_pb2 as pb
from tests.support.bus import (
    drive,
    generate,
    grade,
    group_id,
    issue,
    make_completion,
    make_kept,
    make_scored,
    make_task,
    score,
    store,
    stored_payloads,
    stream_length,
)


def test_a_group_passes_through_all_stages(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch = await issue(bus, 2)
        prompts = await bus.streams.consume("prompts", "generator-0", count=10, block_s=0)
        assert [(one.data, one.attempt) for one in prompts] == [(b"g0000000000", 1), (b"g0000000001", 1)]
        assert await bus.groups.read_task(group_id(1)) == make_task(1)
        assert await bus.groups.missing_indices(group_id(0)) == [0, 1, 2, 3]

        first = [make_completion(bus, group_id(0), index) for index in (0, 2)]
        await store(bus, first)
        assert await bus.groups.write_completions(first) == [Outcome.WRITTEN, Outcome.WRITTEN]
        assert await bus.groups.missing_indices(group_id(0)) == [1, 3]
        assert await stream_length(bus, "prompts") == 2

        await generate(bus, prompts)
        assert await stream_length(bus, "prompts") == 0, "finished groups take their prompts with them"
        assert await bus.groups.missing_indices(group_id(0)) == []
        completions = await bus.streams.consume("completions", "verifier-0", count=100, block_s=0)
        assert {pb.Completion.FromString(one.data).group_id for one in completions} == {group_id(0), group_id(1)}
        assert await bus.groups.write_grades([grade(one) for one in completions[:7]]) == [Outcome.WRITTEN] * 7
        assert await stream_length(bus, "completions") == 1

        (scored,) = await bus.streams.consume("scored", "orchestrator-0", count=10, block_s=0)
        record = await bus.groups.read(scored.data.decode())
        assert (record.state, [one.completion.index for one in record.grades]) == ("scored", [0, 1, 2, 3])
        assert await bus.groups.settle(scored, record.group_id, "kept", "", epoch) is Outcome.WRITTEN
        assert await stream_length(bus, "scored") == 0
        assert await bus.groups.open_ids() == [group_id(0), group_id(1)]
        counts = await bus.groups.ledger()
        assert (counts["kept"], counts["generated"], sum(counts.values())) == (1, 1, 2)

    drive(valkey.url, scenario)


@pytest.mark.parametrize("seed", range(3))
def test_concurrent_duplicate_writers_announce_each_group_once(valkey: EmbeddedValkey, seed: int) -> None:
    groups, size, writers = 6, 8, 4

    async def scenario(*buses: Bus) -> None:
        bus, luck = buses[0], random.Random(seed)
        await issue(bus, groups, size)

        async def write(writer: int) -> list[Outcome]:
            work = [
                make_completion(buses[writer], group_id(group), index, attempt=writer + 1)
                for group in range(groups)
                for index in range(size)
            ]
            luck.shuffle(work)
            await store(buses[writer], work)
            outcomes = []
            for at in range(0, len(work), 5):
                outcomes += await buses[writer].groups.write_completions(work[at : at + 5])
            return outcomes

        outcomes = [one for many in await asyncio.gather(*map(write, range(writers))) for one in many]
        assert outcomes.count(Outcome.WRITTEN) == groups * size
        assert outcomes.count(Outcome.DUPLICATE) == groups * size * (writers - 1)
        deliveries = await bus.streams.consume("completions", "verifier-0", count=1000, block_s=0)
        assert len(deliveries) == groups * size
        winners = {
            key
            for one in deliveries
            if (c := pb.Completion.FromString(one.data))
            for key in (c.payload_key, c.text_key)
        }
        assert await stored_payloads(bus) == winners, "payloads of the losers are deleted, those of the winners are not"

        async def verify(writer: int) -> list[Outcome]:
            mine = luck.sample(deliveries, len(deliveries))
            return await buses[writer].groups.write_grades([grade(one, correct=writer == 0) for one in mine])

        graded = [one for many in await asyncio.gather(*map(verify, range(writers))) for one in many]
        assert graded.count(Outcome.WRITTEN) == groups * size
        scored = await bus.streams.consume("scored", "orchestrator-0", count=1000, block_s=0)
        assert sorted(one.data.decode() for one in scored) == [group_id(group) for group in range(groups)]
        assert await stream_length(bus, "completions") == 0
        assert (await bus.groups.ledger())["scored"] == groups

    drive(valkey.url, scenario, buses=writers)


def test_repeating_the_same_write_keeps_its_payload(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        await issue(bus, 1)
        completion = make_completion(bus, group_id(0), 0)
        await store(bus, [completion])
        assert await bus.groups.write_completions([completion, completion]) == [Outcome.WRITTEN, Outcome.DUPLICATE]
        assert await bus.groups.write_completions([completion]) == [Outcome.DUPLICATE]
        assert await bus.payloads.get([completion.payload_key, completion.text_key]) == [b"blob", b"blob"]

    drive(valkey.url, scenario)


def test_replays_after_a_batch_was_cut_do_not_touch_its_payloads(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch = await make_kept(bus, 1)
        await bus.batches.cut(pb.TrainBatch(batch=0, groups=[pb.TrainGroup(group_id=group_id(0))]), epoch)
        before = await stored_payloads(bus)
        late = make_completion(bus, group_id(0), 0, attempt=2)
        await store(bus, [late])
        again = make_completion(bus, group_id(0), 1)
        assert await bus.groups.write_completions([late, again]) == [Outcome.DUPLICATE, Outcome.DUPLICATE]
        assert await stored_payloads(bus) == before

    drive(valkey.url, scenario)


def test_a_crash_between_payload_and_script_leaves_no_trace(valkey: EmbeddedValkey) -> None:
    async def scenario(first: Bus, second: Bus, bus: Bus) -> None:
        epoch = await issue(bus, 1)

        async def die_with(dead: Bus, name: str, prompt: Delivery) -> None:
            tries = [attempt_number(prompt.attempt, retry) for retry in range(RETRIES)]
            await store(dead, [make_completion(dead, group_id(0), index, one) for index in range(4) for one in tries])
            await dead.control_server.client.delete(dead.keys.heartbeat("generator", name))  # before write_completions

        (prompt,) = await first.streams.consume("prompts", "generator-0", count=1, block_s=0)
        await die_with(first, "generator-0", prompt)
        (prompt,) = await second.streams.claim_dead("prompts", "generator", "generator-1", count=10)
        await die_with(second, "generator-1", prompt)
        (claimed,) = await bus.streams.claim_dead("prompts", "generator", "generator-2", count=10)
        assert (claimed.data, claimed.attempt) == (group_id(0).encode(), 3)
        assert await bus.groups.missing_indices(group_id(0)) == [0, 1, 2, 3]
        await generate(bus, [claimed])
        await score(bus)
        (scored,) = await bus.streams.consume("scored", "orchestrator-0", count=1, block_s=0)
        await bus.groups.settle(scored, group_id(0), "filtered", "all correct", epoch)
        assert await stored_payloads(bus) == set(), "what the dead attempts stored is deleted with the group"

    drive(valkey.url, scenario, buses=3)


def test_many_groups_are_settled_in_the_order_given_and_uniform_ones_counted_since_the_last_kept(
    valkey: EmbeddedValkey,
) -> None:
    async def scenario(bus: Bus) -> None:
        epoch, scored = await make_scored(bus, 40)
        reasons = ["all wrong", "", "all correct", "all wrong", "all wrong"] * 8
        wanted = [
            Settlement(one.data.decode(), "filtered" if reason else "kept", reason, one)
            for one, reason in zip(scored, reasons, strict=True)
        ]
        with pytest.raises(ValueError, match="cannot be settled as 'trained'"):
            await bus.groups.settle_many([*wanted[:3], wanted[3]._replace(state="trained")], epoch)
        assert (await bus.groups.ledger())["scored"] == 40
        assert await bus.groups.settle_many(wanted, epoch) == [Outcome.WRITTEN] * 40
        decided = await bus.decisions.read()
        assert decided.history == [reason == "" for reason in reasons]
        assert decided.uniform == {"all correct": 1, "all wrong": 2}
        assert await bus.groups.settle_many(wanted[-2:], epoch) == [Outcome.DUPLICATE] * 2
        assert (await bus.decisions.read()).uniform == decided.uniform

    drive(valkey.url, scenario)


@pytest.mark.parametrize("state", ["filtered", "surplus", "stale"])
def test_a_closed_group_rejects_late_writes_and_deletes_them(valkey: EmbeddedValkey, state: str) -> None:
    async def scenario(bus: Bus) -> None:
        epoch, (scored,) = await make_scored(bus, 1)
        late_grade = grade(scored._replace(data=make_completion(bus, group_id(0), 0).SerializeToString()))
        assert await bus.groups.settle(scored, group_id(0), state, "why", epoch) is Outcome.WRITTEN
        assert await stored_payloads(bus) == set()
        late = make_completion(bus, group_id(0), 0, attempt=3)
        await store(bus, [late])
        assert await bus.groups.write_completions([late]) == [Outcome.CLOSED]
        assert await bus.groups.write_grades([late_grade]) == [Outcome.CLOSED]
        assert await stored_payloads(bus) == set()
        record = await bus.groups.read(group_id(0))
        assert (record.state, record.reason, len(record.grades)) == (state, "why", 4)
        assert await bus.groups.settle(scored, group_id(0), state, "again", epoch) is Outcome.DUPLICATE
        assert await bus.groups.settle(scored, group_id(0), "kept", "", epoch) is Outcome.CLOSED
        assert await bus.groups.open_ids() == []

    drive(valkey.url, scenario)


def test_a_dead_letter_closes_its_group_and_frees_everybody(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch = await issue(bus, 2)
        await generate(bus, await bus.streams.consume("prompts", "generator-0", count=2, block_s=0))
        deliveries = await bus.streams.consume("completions", "verifier-0", count=100, block_s=0)
        bad, rest = deliveries[0], deliveries[1:]
        outcome = await bus.groups.fail(group_id(0), "grader_failed", "boom", stream="completions", delivery=bad)
        assert outcome is Outcome.WRITTEN
        assert (
            await bus.groups.write_grades([grade(one) for one in rest]) == [Outcome.CLOSED] * 3 + [Outcome.WRITTEN] * 4
        )
        assert await stream_length(bus, "completions") == 0
        assert {key.split(":")[3] for key in await stored_payloads(bus)} == {group_id(1)}

        scored = await bus.streams.consume("scored", "orchestrator-0", count=10, block_s=0)
        assert [one.data.decode() for one in scored] == [group_id(0), group_id(1)]
        record = await bus.groups.read(group_id(0))
        assert (record.state, record.reason) == ("failed", "grader_failed")
        assert await bus.groups.settle(scored[0], group_id(0), "filtered", "", epoch) is Outcome.CLOSED
        assert await stream_length(bus, "scored") == 1, "the notice of a failed group is acknowledged by settling it"
        (letter,) = await bus.dead_letters.read()
        assert letter["reason"] == "grader_failed"
        assert (letter["group"], letter["detail"], letter["stream"]) == (group_id(0), "boom", "completions")
        assert bytes.fromhex(letter["data"]) == bad.data

    drive(valkey.url, scenario)


def test_a_scored_group_cannot_fail_any_more(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        await make_scored(bus, 1)
        payloads = await stored_payloads(bus)
        assert await bus.groups.fail(group_id(0), "late") is Outcome.CLOSED
        assert (await bus.groups.read(group_id(0))).state == "scored"
        assert await stored_payloads(bus) == payloads
        assert await bus.streams.consume("scored", "orchestrator-0", count=10, block_s=0) == []

    drive(valkey.url, scenario)


def test_a_drain_closes_every_open_group(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch = await issue(bus, 150, size=2)
        prompts = await bus.streams.consume("prompts", "generator-0", count=100, block_s=0)
        await generate(bus, prompts[:80])
        await score(bus, 100)
        scored = await bus.streams.consume("scored", "orchestrator-0", count=20, block_s=0)
        for one in scored:
            await bus.groups.settle(one, one.data.decode(), "kept", "", epoch)
        batch = pb.TrainBatch(batch=0, groups=[pb.TrainGroup(group_id=scored[0].data.decode())])
        await bus.batches.cut(batch, epoch)

        assert await bus.groups.close_open("run stopped", epoch) == 149
        counts = await bus.groups.ledger()
        assert (counts["surplus"], counts["batched"]) == (149, 1)
        assert await bus.groups.open_ids() == []
        assert await stream_length(bus, "prompts") == 0
        assert {key.split(":")[3] for key in await stored_payloads(bus)} == {scored[0].data.decode()}
        assert (await bus.groups.read(group_id(149))).reason == "run stopped"
        assert await bus.groups.missing_indices(prompts[90].data.decode()) == []
        await score(bus)
        for one in await bus.streams.consume("scored", "orchestrator-0", count=1000, block_s=0):
            assert await bus.groups.settle(one, one.data.decode(), "kept", "", epoch) is Outcome.CLOSED
        assert [await stream_length(bus, name) for name in ("prompts", "completions", "scored")] == [0, 0, 0]
        assert await bus.groups.close_open("again", epoch) == 0

    drive(valkey.url, scenario)


def test_issuing_a_group_again_changes_nothing(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch = await issue(bus, 3)
        await generate(bus, await bus.streams.consume("prompts", "generator-0", count=1, block_s=0))
        await bus.groups.issue([make_task(number) for number in range(4)], epoch)
        assert await bus.groups.issued_total() == 4
        counts = await bus.groups.ledger()
        assert (counts["issued"], counts["generated"]) == (3, 1)
        assert await stream_length(bus, "prompts") == 3

    drive(valkey.url, scenario)


def test_requests_that_make_no_sense_are_refused_with_words(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch = await issue(bus, 1, size=2)
        good, outside = (make_completion(bus, group_id(0), index) for index in (0, 2))
        with pytest.raises(BusError, match=r"g0000000000\[2\] lie outside"):
            await bus.groups.write_completions([outside, good])
        assert await bus.groups.missing_indices(group_id(0)) == [1], "the sound one of the two was written"
        (delivery,) = await bus.streams.consume("completions", "verifier-0", count=1, block_s=0)
        stray = delivery._replace(data=make_completion(bus, group_id(0), 1).SerializeToString())
        with pytest.raises(BusError, match=r"g0000000000\[1\]: no such completion"):
            await bus.groups.write_grades([grade(stray)])
        assert await stream_length(bus, "completions") == 1
        with pytest.raises(LedgerError, match="g0000000000 is issued and cannot become kept"):
            await bus.groups.settle(None, group_id(0), "kept", "", epoch)
        with pytest.raises(ValueError, match="'trained'; use evaluated, filtered, kept, stale, surplus"):
            await bus.groups.settle(None, group_id(0), "trained", "", epoch)
        with pytest.raises(UnknownGroup, match="g0000000007"):
            await bus.groups.read(group_id(7))
        with pytest.raises(ValueError, match="group_size is 0"):
            await bus.groups.issue([pb.PromptTask(group_id=group_id(8))], epoch)

    drive(valkey.url, scenario)


def test_an_evaluation_outlives_the_drain_of_the_training_and_leaves_no_payload(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch = await issue(bus, 2)
        task = make_task(0)
        task.group_id, task.evaluation = "e0000000000", "exam"
        await bus.groups.issue([task], epoch)
        assert await bus.groups.close_open("run complete", epoch) == 2
        assert await bus.groups.open_ids() == [task.group_id]
        await generate(bus, await bus.streams.consume("prompts", "generator-0", count=10, block_s=0))
        await score(bus)
        (scored,) = await bus.streams.consume("scored", "orchestrator-0", count=10, block_s=0)
        assert await bus.groups.settle(scored, task.group_id, "evaluated", "", epoch) is Outcome.WRITTEN
        assert await stored_payloads(bus) == set()
        counts = await bus.groups.ledger()
        assert (counts["evaluated"], counts["surplus"], sum(counts.values())) == (1, 2, 3)
        assert await bus.groups.open_ids() == []

    drive(valkey.url, scenario)
