"""What a checkpoint keeps of a run's decisions, and how a run is put where it stood, on a real Valkey."""

from dapo.bus import Bus, Settlement
from dapo.bus.failures import FailureReason
from dapo.bus.parts.decisions import Ending, IssuedPrompt
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.v1 import messages_pb2 as pb
from tests.support.bus import drive, group_id, issue, make_batch, make_kept, make_scored, make_task


def test_a_run_that_goes_on_knows_the_rows_and_not_the_end_that_was_mended(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch, scored = await make_scored(bus, 5)
        remembered = ["1 -1 all wrong", "2 3 all wrong", "", "1 -1 all correct", "2 5 all correct"]
        rows = ["d.jsonl:1", "d.jsonl:1", "d.jsonl:2", "d.jsonl:2", "d.jsonl:3"]
        settlements = [
            Settlement(one.data.decode(), "filtered", text[5:], one, row, text)
            for one, row, text in zip(scored, rows, remembered, strict=True)
        ]
        await bus.groups.settle_many(settlements, epoch)
        await bus.decisions.end(Ending(0, "failed", "nothing to train on"), epoch)
        decided = await bus.decisions.read()
        known = {"d.jsonl:1": "2 3 all wrong", "d.jsonl:2": "1 -1 all correct", "d.jsonl:3": "2 5 all correct"}
        assert decided.resting == known
        assert sum(decided.uniform.values()) == 5
        assert decided.ending == Ending(0, "failed", "nothing to train on")

        many = {f"d.jsonl:{number}": "1 -1 all wrong" for number in range(10, 2510)}
        frontier = await bus.decisions.frontier(0)
        assert frontier.resting == known
        await bus.decisions.begin_at(0, frontier._replace(resting=known | many), epoch)
        decided = await bus.decisions.read()
        assert decided.resting == known | many
        assert (decided.uniform, decided.ending) == ({}, None)
        assert decided.last_prompt is not None

    drive(valkey.url, scenario)


def test_a_checkpoint_written_during_a_replay_counts_what_it_covers(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch, learner = await make_kept(bus, 5), await bus.lease.acquire("learner")
        for number, groups in enumerate(([0], [1, 2], [3, 4])):
            await bus.batches.cut(make_batch(bus, number, groups), epoch)
        frontiers = {}
        for number, groups in enumerate(([0], [1, 2])):
            report = pb.StepReport(batch=number, version=pb.Version(incarnation=learner, step=number + 1))
            await bus.batches.record_step(report, [group_id(group) for group in groups], learner)
            frontiers[number + 1] = await bus.decisions.frontier(number + 1)
        replayed = await bus.decisions.frontier(1)
        assert replayed == frontiers[1]
        assert (replayed.ledger["trained"], len(replayed.unsettled)) == (1, 4)
        assert frontiers[2].ledger["trained"] == 3

    drive(valkey.url, scenario)


def test_a_kept_group_lets_its_row_be_forgotten(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch, (first, second) = await make_scored(bus, 2)
        named = Settlement(first.data.decode(), "filtered", "all wrong", first, "d.jsonl:1", "1 -1 all wrong")
        await bus.groups.settle_many([named, Settlement(second.data.decode(), "kept", "", second, "d.jsonl:1")], epoch)
        assert (await bus.decisions.read()).resting == {}

    drive(valkey.url, scenario)


def test_a_run_that_goes_on_knows_what_is_to_be_issued_once_more_and_what_was(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch = await issue(bus, 3)
        for number in (0, 1):
            await bus.groups.fail(group_id(number), FailureReason.GENERATION_FAILED)
            await bus.decisions.requeue(IssuedPrompt(group_id(number), 0, number), epoch)
        repeat = make_task(0)
        repeat.group_id, repeat.requeued_from = group_id(3), group_id(0)
        await bus.groups.issue([repeat], epoch)
        before = await bus.decisions.read()
        assert before.last_prompt == IssuedPrompt(group_id(3), 0, 2), "the data goes on behind the last new prompt"
        assert (before.requeued, before.repeats) == ([IssuedPrompt(group_id(1), 0, 1)], 1)

        frontier = await bus.decisions.frontier(0)
        await bus.decisions.begin_at(0, frontier, epoch)
        after = await bus.decisions.read()
        assert after.last_prompt == before.last_prompt
        assert (after.requeued, after.repeats) == (before.requeued, before.repeats)
        assert after.again == [IssuedPrompt(group_id(2), 0, 2), IssuedPrompt(group_id(3), 0, 0, group_id(0))]
        await bus.decisions.begin_at(0, None, epoch)
        anew = await bus.decisions.read()
        assert (anew.last_prompt, anew.requeued, anew.repeats) == (None, [], 0)

    drive(valkey.url, scenario)
