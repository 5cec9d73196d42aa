"""Responses that are lost after they were written, on a real Valkey."""

from dapo.bus import Bus, Delivery, Outcome, Refill
from dapo.bus.server.embedded import EmbeddedValkey
from tests.support.bus import (
    drive,
    generate,
    grade,
    group_id,
    issue,
    make_completion,
    stored_payloads,
    stream_length,
)


async def take(bus: Bus, stream: str, worker_id: str) -> list[Delivery]:
    return await bus.streams.consume(stream, worker_id, count=10, block_s=0)


def test_a_lost_response_is_generated_again_alone(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        await issue(bus, 1)
        await generate(bus, await take(bus, "prompts", "generator-0"))
        lost, *rest = await take(bus, "completions", "verifier-0")
        await bus.groups.write_grades([grade(one) for one in rest])
        assert await bus.groups.refill(lost) is Refill.REFILLED
        assert await bus.groups.refill(lost) is Refill.CLOSED
        counts = await bus.groups.ledger()
        assert (counts["issued"], counts["generated"], sum(counts.values())) == (1, 0, 1)
        assert await bus.groups.missing_indices(group_id(0)) == [0]
        assert await bus.groups.write_grades([grade(lost, correct=False)]) == [Outcome.CLOSED]

        (again,) = await take(bus, "prompts", "generator-1")
        assert again.attempt == 2
        (made,) = await generate(bus, [again])
        assert await bus.groups.write_grades([grade(lost, correct=False)]) == [Outcome.CLOSED], "it meets no old grade"
        assert (await bus.groups.ledger())["generated"] == 1
        (fresh,) = await take(bus, "completions", "verifier-0")
        await bus.groups.write_grades([grade(fresh)])
        assert len(await take(bus, "scored", "orchestrator-0")) == 1
        grades = (await bus.groups.read(group_id(0))).grades
        assert [one.completion.attempt for one in grades] == [made.attempt, 0, 0, 0]
        assert len(await stored_payloads(bus)) == 8
        assert await stream_length(bus, "prompts") == await stream_length(bus, "completions") == 0

    drive(valkey.url, scenario)


def test_a_response_that_is_lost_while_others_are_generated_is_missing_again(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        await issue(bus, 1)
        (held,) = await take(bus, "prompts", "generator-0")
        await bus.groups.write_completions([make_completion(bus, group_id(0), 0)])
        (lost,) = await take(bus, "completions", "verifier-0")
        assert await bus.groups.refill(lost) is Refill.REFILLED
        assert await take(bus, "prompts", "generator-1") == [], "it is still in the first one's hands"
        assert await bus.groups.missing_indices(group_id(0)) == [0, 1, 2, 3]
        await generate(bus, [held])
        assert (await bus.groups.ledger())["generated"] == 1

    drive(valkey.url, scenario)


def test_an_index_is_refilled_three_times_and_a_closed_group_never(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch = await issue(bus, 1, size=1)
        await bus.groups.close_open("drain", epoch)
        await issue(bus, 2, size=1)
        outcomes = []
        for _ in range(4):
            await generate(bus, await take(bus, "prompts", "generator-0"))
            (lost,) = await take(bus, "completions", "verifier-0")
            outcomes.append(await bus.groups.refill(lost))
        assert outcomes == [Refill.REFILLED] * 3 + [Refill.EXHAUSTED]
        assert await stream_length(bus, "completions") == 1, "the caller fails the group with it"
        stray = lost._replace(data=make_completion(bus, group_id(0), 0).SerializeToString())
        assert await bus.groups.refill(stray) is Refill.CLOSED

    drive(valkey.url, scenario)
