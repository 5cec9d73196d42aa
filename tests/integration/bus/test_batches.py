"""The write-ahead log and the fences around it, on a real Valkey."""

import asyncio
from pathlib import Path

import pytest

from dapo.bus import Bus, BusError, Fenced, LedgerError, Outcome, UnknownGroup, groups
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.v1 import messages_pb2 as pb
from tests.support.bus import (
    drive,
    group_id,
    issue,
    make_batch,
    make_completion,
    make_kept,
    make_scored,
    make_task,
    stored_payloads,
)


def report(batch: int) -> pb.StepReport:
    return pb.StepReport(batch=batch, version=pb.Version(incarnation=1, step=batch + 1), metrics={"loss": 0.5})


def test_batches_stay_until_a_checkpoint_covers_them(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch, learner = await make_kept(bus, 6), await bus.acquire_epoch("learner")
        batches = [make_batch(bus, number, [2 * number, 2 * number + 1]) for number in range(3)]
        for batch in batches:
            await bus.cut_batch(batch, epoch)
        assert await bus.read_batches(-1, block_s=0, count=10) == batches
        assert await bus.read_batches(0, block_s=0) == [batches[1]]
        assert await bus.read_batches(2, block_s=0.05) == []
        for number in range(2):
            await bus.record_step(report(number), [group_id(2 * number), group_id(2 * number + 1)], learner)
        counts = await bus.ledger_counts()
        assert (counts["trained"], counts["batched"]) == (4, 2)
        assert len(await stored_payloads(bus)) == 6 * 4 * 2, "trained, but no checkpoint yet"

        await bus.commit_checkpoint(0, learner)
        assert await bus.read_batches(-1, block_s=0, count=10) == batches[1:]
        assert {key.split(":")[3] for key in await stored_payloads(bus)} == {group_id(n) for n in (2, 3, 4, 5)}
        await bus.commit_checkpoint(1, learner)
        await bus.commit_checkpoint(1, learner)
        assert await bus.read_batches(-1, block_s=0, count=10) == batches[2:]
        assert {key.split(":")[3] for key in await stored_payloads(bus)} == {group_id(4), group_id(5)}
        with pytest.raises(BusError, match="batch 2 covers more than the recorded steps, which end with 1"):
            await bus.commit_checkpoint(2, learner)
        assert len(await stored_payloads(bus)) == 16

        end = pb.TrainBatch(batch=3, end=True)
        await bus.cut_batch(end, epoch)
        assert (await bus.read_batches(2, block_s=0)) == [end]

    drive(valkey.url, scenario)


def test_a_sweep_that_was_cut_short_is_finished_by_the_next(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(bus: Bus) -> None:
        epoch, (first, second) = await make_scored(bus, 2)

        async def die(_keys: object) -> None:
            raise asyncio.CancelledError

        monkeypatch.setattr(bus, "delete_payloads", die)
        with pytest.raises(asyncio.CancelledError):
            await bus.settle_group(first, first.data.decode(), "filtered", "", epoch)
        monkeypatch.undo()
        assert len(await stored_payloads(bus)) == 16
        late = make_completion(bus, first.data.decode(), 0)
        assert await bus.write_completions([late]) == [Outcome.CLOSED], "closed is closed, swept or not"
        await bus.settle_group(second, second.data.decode(), "kept", "", epoch)
        await bus.sweep()
        assert {key.split(":")[3] for key in await stored_payloads(bus)} == {second.data.decode()}

    drive(valkey.url, scenario)


def test_records_of_finished_groups_leave_in_the_end(valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_ARCHIVE", 2)

    async def scenario(bus: Bus) -> None:
        epoch, learner = await make_kept(bus, 4), await bus.acquire_epoch("learner")
        await bus.cut_batch(make_batch(bus, 0, [0]), epoch)
        await bus.record_step(report(0), [group_id(0)], learner)
        await bus.commit_checkpoint(0, learner)
        late = make_completion(bus, group_id(0), 1, attempt=2)
        assert await bus.write_completions([late]) == [Outcome.CLOSED]
        record = await bus.read_group(group_id(0))
        assert (record.state, [one.completion.index for one in record.grades]) == ("trained", [0, 1, 2, 3])

        for number in (1, 2):
            await bus.settle_group(None, group_id(number), "surplus", "", epoch)
        with pytest.raises(UnknownGroup, match="no longer has its record"):
            await bus.read_group(group_id(0))
        assert await bus.write_completions([late]) == [Outcome.CLOSED]
        assert await bus.missing_indices(group_id(0)) == []
        assert [one.state for one in await bus.read_groups([group_id(n) for n in (1, 2, 3)])] == [
            "surplus",
            "surplus",
            "kept",
        ]
        counts = await bus.ledger_counts()
        assert (counts["trained"], counts["surplus"], counts["kept"], await bus.issued_total()) == (1, 2, 1, 4)

    drive(valkey.url, scenario)


def test_a_batch_is_cut_whole_in_order_and_once(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch = await make_kept(bus, 3)
        await bus.issue_groups([make_task(3)], epoch)
        with pytest.raises(BusError, match="1 is not the next, which is 0"):
            await bus.cut_batch(make_batch(bus, 1, [0]), epoch)
        with pytest.raises(LedgerError, match="g0000000003 is issued: only a kept group can be batched"):
            await bus.cut_batch(make_batch(bus, 0, [0, 3]), epoch)
        with pytest.raises(LedgerError, match="g0000000001 is listed twice"):
            await bus.cut_batch(make_batch(bus, 0, [1, 1]), epoch)
        assert (await bus.ledger_counts())["kept"] == 3, "a refused batch moves nothing"

        batch = make_batch(bus, 0, [0, 1])
        await asyncio.gather(*(bus.cut_batch(batch, epoch) for _ in range(5)))
        assert await bus.read_batches(-1, block_s=0, count=10) == [batch]
        with pytest.raises(BusError, match="0 is not the next, which is 1"):
            await bus.cut_batch(make_batch(bus, 0, [2]), epoch)
        assert (await bus.ledger_counts())["batched"] == 2

    drive(valkey.url, scenario)


def test_steps_are_recorded_once_and_in_order(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch, learner = await make_kept(bus, 2), await bus.acquire_epoch("learner")
        with pytest.raises(BusError, match="STEP 0 cannot be recorded"):
            await bus.record_step(report(0), [group_id(0)], learner)
        for number in range(2):
            await bus.cut_batch(make_batch(bus, number, [number]), epoch)
        with pytest.raises(BusError, match="STEP 1 cannot be recorded: batches recorded up to -1"):
            await bus.record_step(report(1), [group_id(1)], learner)
        with pytest.raises(LedgerError, match="g0000000005 is unknown: only a batched group"):
            await bus.record_step(report(0), [group_id(0), group_id(5)], learner)
        for _ in range(3):
            await bus.record_step(report(0), [group_id(0)], learner)
        await bus.record_step(report(1), [group_id(1)], learner)
        steps = await bus.read_steps("0", block_s=0)
        assert [step for _, step in steps] == [report(0), report(1)]
        assert [step for _, step in await bus.read_steps(steps[0][0], block_s=0)] == [report(1)]
        assert (await bus.ledger_counts())["trained"] == 2

    drive(valkey.url, scenario)


def test_a_former_holder_writes_nothing(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        old = await issue(bus, 1)
        old_learner = await bus.acquire_epoch("learner")
        epoch, (scored, *_) = await make_scored(bus, 3)
        learner = await bus.acquire_epoch("learner")
        assert (epoch, learner) == (old + 1, old_learner + 1)
        await bus.settle_group(None, group_id(1), "kept", "", epoch)
        await bus.settle_group(None, group_id(2), "kept", "", epoch)
        await bus.cut_batch(make_batch(bus, 0, [1]), epoch)
        before = (await bus.ledger_counts(), await stored_payloads(bus), await bus.published_version())
        attempts = [
            bus.issue_groups([make_task(9)], old),
            bus.settle_group(scored, scored.data.decode(), "filtered", "", old),
            bus.close_open_groups("stopped", old),
            bus.cut_batch(make_batch(bus, 1, [2]), old),
            bus.record_step(report(0), [group_id(1)], old_learner),
            bus.commit_checkpoint(0, old_learner),
            bus.set_published_version(pb.Version(incarnation=1, step=9), old_learner),
            bus.set_published_version(pb.Version(incarnation=1, step=9), learner + 5),
        ]
        for attempt in attempts:
            with pytest.raises(Fenced, match=r"epoch \d+, newest \d+: another process has taken this role over"):
                await attempt
        assert before == (await bus.ledger_counts(), await stored_payloads(bus), await bus.published_version())
        assert await bus.read_batches(-1, block_s=0, count=5) == [make_batch(bus, 0, [1])]
        await bus.record_step(report(0), [group_id(1)], learner)

    drive(valkey.url, scenario)


def test_what_was_written_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    async def write(bus: Bus) -> None:
        epoch = await make_kept(bus, 2)
        await bus.cut_batch(make_batch(bus, 0, [0, 1]), epoch)
        await bus.sync_to_disk()

    async def read(bus: Bus) -> None:
        assert await bus.read_batches(-1, block_s=0) == [make_batch(bus, 0, [0, 1])]
        assert len(await stored_payloads(bus)) == 16
        assert (await bus.ledger_counts())["batched"] == 2

    server = EmbeddedValkey(tmp_path, memory_mib=64)
    with server:
        drive(server.url, write)
        server.kill()
    with server:
        drive(server.url, read)


def test_payloads_may_live_on_a_server_of_their_own(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def scenario(bus: Bus) -> None:
        epoch, learner = await make_kept(bus, 2), await bus.acquire_epoch("learner")
        assert len(await stored_payloads(bus)) == 16
        assert not [key async for key in bus.control.client.scan_iter(match=f"{bus.keys.prefix}[pt]:*")]
        await bus.cut_batch(make_batch(bus, 0, [0]), epoch)
        await bus.record_step(report(0), [group_id(0)], learner)
        await bus.sync_to_disk()
        await bus.commit_checkpoint(0, learner)
        assert {key.split(":")[3] for key in await stored_payloads(bus)} == {group_id(1)}
        await bus.settle_group(None, group_id(1), "stale", "", epoch)
        assert await stored_payloads(bus) == set()

    with EmbeddedValkey(tmp_path, memory_mib=64) as payload:
        drive(valkey.url, scenario, payload_url=payload.url)
