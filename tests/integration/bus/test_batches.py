"""The write-ahead log and the fences around it, on a real Valkey."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from dapo.bus import Bus, BusError, Fenced, LedgerError, Outcome, UnknownGroup
from dapo.bus.failures import FailureReason
from dapo.bus.keys import ORCHESTRATOR, WORKERS
from dapo.bus.parts import garbage
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.events import Alert
from dapo.v1 import messages_pb2 as pb
from tests.support.bus import (
    drive,
    everything,
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
        epoch, learner = await make_kept(bus, 6), await bus.lease.acquire("learner")
        batches = [make_batch(bus, number, [2 * number, 2 * number + 1]) for number in range(3)]
        for batch in batches:
            await bus.batches.cut(batch, epoch)
        assert await bus.batches.read(-1, block_s=0, count=10) == batches
        assert await bus.batches.read(0, block_s=0) == [batches[1]]
        assert await bus.batches.read(2, block_s=0.05) == []
        for number in range(2):
            await bus.batches.record_step(report(number), [group_id(2 * number), group_id(2 * number + 1)], learner)
        counts = await bus.groups.ledger()
        assert (counts["trained"], counts["batched"]) == (4, 2)
        assert len(await stored_payloads(bus)) == 6 * 4 * 2, "trained, but no checkpoint yet"

        await bus.batches.commit_checkpoint(0, learner)
        assert await bus.batches.read(-1, block_s=0, count=10) == batches[1:]
        assert {key.split(":")[3] for key in await stored_payloads(bus)} == {group_id(n) for n in (2, 3, 4, 5)}
        await bus.batches.commit_checkpoint(1, learner)
        await bus.batches.commit_checkpoint(1, learner)
        assert await bus.batches.read(-1, block_s=0, count=10) == batches[2:]
        assert {key.split(":")[3] for key in await stored_payloads(bus)} == {group_id(4), group_id(5)}
        with pytest.raises(BusError, match="batch 2 covers more than the recorded steps, which end with 1"):
            await bus.batches.commit_checkpoint(2, learner)
        assert len(await stored_payloads(bus)) == 16

        end = pb.TrainBatch(batch=3, end=True)
        await bus.batches.cut(end, epoch)
        assert (await bus.batches.read(2, block_s=0)) == [end]

    drive(valkey.url, scenario)


def test_a_sweep_that_was_cut_short_is_finished_by_the_next(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(bus: Bus) -> None:
        epoch, (first, second) = await make_scored(bus, 2)

        async def die(_keys: object) -> None:
            raise asyncio.CancelledError

        monkeypatch.setattr(bus.payloads, "delete", die)
        with pytest.raises(asyncio.CancelledError):
            await bus.groups.settle(first, first.data.decode(), "filtered", "", epoch)
        monkeypatch.undo()
        assert len(await stored_payloads(bus)) == 16
        late = make_completion(bus, first.data.decode(), 0)
        assert await bus.groups.write_completions([late]) == [Outcome.CLOSED], "closed is closed, swept or not"
        await bus.groups.settle(second, second.data.decode(), "kept", "", epoch)
        await bus.garbage.sweep()
        assert {key.split(":")[3] for key in await stored_payloads(bus)} == {second.data.decode()}

    drive(valkey.url, scenario)


def test_records_of_finished_groups_leave_in_the_end(valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage, "_ARCHIVE", 2)

    async def scenario(bus: Bus) -> None:
        epoch, learner = await make_kept(bus, 4), await bus.lease.acquire("learner")
        await bus.batches.cut(make_batch(bus, 0, [0]), epoch)
        await bus.batches.record_step(report(0), [group_id(0)], learner)
        await bus.batches.commit_checkpoint(0, learner)
        late = make_completion(bus, group_id(0), 1, attempt=2)
        assert await bus.groups.write_completions([late]) == [Outcome.CLOSED]
        record = await bus.groups.read(group_id(0))
        assert (record.state, [one.completion.index for one in record.grades]) == ("trained", [0, 1, 2, 3])

        for number in (1, 2):
            await bus.groups.settle(None, group_id(number), "surplus", "", epoch)
        with pytest.raises(UnknownGroup, match="no longer has its record"):
            await bus.groups.read(group_id(0))
        assert await bus.groups.write_completions([late]) == [Outcome.CLOSED]
        assert await bus.groups.missing_indices(group_id(0)) == []
        assert [one.state for one in await bus.groups.read_many([group_id(n) for n in (1, 2, 3)])] == [
            "surplus",
            "surplus",
            "kept",
        ]
        counts = await bus.groups.ledger()
        assert (counts["trained"], counts["surplus"], counts["kept"], await bus.groups.issued_total()) == (1, 2, 1, 4)

    drive(valkey.url, scenario)


def test_a_batch_is_cut_whole_in_order_and_once(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch = await make_kept(bus, 3)
        await bus.groups.issue([make_task(3)], epoch)
        with pytest.raises(BusError, match="1 is not the next, which is 0"):
            await bus.batches.cut(make_batch(bus, 1, [0]), epoch)
        with pytest.raises(LedgerError, match="g0000000003 is issued: only a kept group can be batched"):
            await bus.batches.cut(make_batch(bus, 0, [0, 3]), epoch)
        with pytest.raises(LedgerError, match="g0000000001 is listed twice"):
            await bus.batches.cut(make_batch(bus, 0, [1, 1]), epoch)
        assert (await bus.groups.ledger())["kept"] == 3, "a refused batch moves nothing"

        batch = make_batch(bus, 0, [0, 1])
        await asyncio.gather(*(bus.batches.cut(batch, epoch) for _ in range(5)))
        assert await bus.batches.read(-1, block_s=0, count=10) == [batch]
        with pytest.raises(BusError, match="0 is not the next, which is 1"):
            await bus.batches.cut(make_batch(bus, 0, [2]), epoch)
        assert (await bus.groups.ledger())["batched"] == 2

    drive(valkey.url, scenario)


def test_steps_are_recorded_once_and_in_order(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch, learner = await make_kept(bus, 2), await bus.lease.acquire("learner")
        with pytest.raises(BusError, match="STEP 0 cannot be recorded"):
            await bus.batches.record_step(report(0), [group_id(0)], learner)
        for number in range(2):
            await bus.batches.cut(make_batch(bus, number, [number]), epoch)
        with pytest.raises(BusError, match="STEP 1 cannot be recorded: batches recorded up to -1"):
            await bus.batches.record_step(report(1), [group_id(1)], learner)
        with pytest.raises(LedgerError, match="g0000000005 is unknown: only a batched group"):
            await bus.batches.record_step(report(0), [group_id(0), group_id(5)], learner)
        for _ in range(3):
            await bus.batches.record_step(report(0), [group_id(0)], learner)
        await bus.batches.record_step(report(1), [group_id(1)], learner)
        steps = await bus.batches.read_steps("0", block_s=0)
        assert [step for _, step in steps] == [report(0), report(1)]
        assert [step for _, step in await bus.batches.read_steps(steps[0][0], block_s=0)] == [report(1)]
        assert (await bus.groups.ledger())["trained"] == 2

    drive(valkey.url, scenario)


def test_a_former_holder_writes_nothing(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        old = await issue(bus, 1)
        old_learner = await bus.lease.acquire("learner")
        epoch, (scored, *_) = await make_scored(bus, 3)
        learner = await bus.lease.acquire("learner")
        assert (epoch > old, learner) == (True, old_learner + 1)
        await bus.groups.settle(None, group_id(1), "kept", "", epoch)
        await bus.groups.settle(None, group_id(2), "kept", "", epoch)
        await bus.batches.cut(make_batch(bus, 0, [1]), epoch)
        before = (await bus.groups.ledger(), await stored_payloads(bus), await bus.weights.published_version())
        attempts = [
            bus.groups.issue([make_task(9)], old),
            bus.groups.settle(scored, scored.data.decode(), "filtered", "", old),
            bus.groups.close_open("stopped", old),
            bus.batches.cut(make_batch(bus, 1, [2]), old),
            bus.batches.record_step(report(0), [group_id(1)], old_learner),
            bus.batches.commit_checkpoint(0, old_learner),
            bus.weights.publish_version(pb.Version(incarnation=1, step=9), old_learner),
            bus.weights.publish_version(pb.Version(incarnation=1, step=9), learner + 5),
        ]
        for attempt in attempts:
            with pytest.raises(Fenced, match=r"epoch \d+, newest \d+: another process has taken this role over"):
                await attempt
        assert before == (await bus.groups.ledger(), await stored_payloads(bus), await bus.weights.published_version())
        assert await bus.batches.read(-1, block_s=0, count=5) == [make_batch(bus, 0, [1])]
        await bus.batches.record_step(report(0), [group_id(1)], learner)

    drive(valkey.url, scenario)


def test_what_was_written_survives_a_restart_of_the_server(tmp_path: Path) -> None:
    async def write(bus: Bus) -> None:
        epoch = await make_kept(bus, 2)
        await bus.batches.cut(make_batch(bus, 0, [0, 1]), epoch)
        await bus.batches.sync_to_disk()

    async def read(bus: Bus) -> None:
        assert await bus.batches.read(-1, block_s=0) == [make_batch(bus, 0, [0, 1])]
        assert len(await stored_payloads(bus)) == 16
        assert (await bus.groups.ledger())["batched"] == 2

    server = EmbeddedValkey(tmp_path, memory_mib=64)
    with server:
        drive(server.url, write)
        server.kill()
    with server:
        drive(server.url, read)


def test_payloads_may_live_on_a_server_of_their_own(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def scenario(bus: Bus) -> None:
        epoch, learner = await make_kept(bus, 2), await bus.lease.acquire("learner")
        assert len(await stored_payloads(bus)) == 16
        assert not [key async for key in bus.control_server.client.scan_iter(match=f"{bus.keys.prefix}[pt]:*")]
        await bus.batches.cut(make_batch(bus, 0, [0]), epoch)
        await bus.batches.record_step(report(0), [group_id(0)], learner)
        await bus.batches.sync_to_disk()
        await bus.batches.commit_checkpoint(0, learner)
        assert {key.split(":")[3] for key in await stored_payloads(bus)} == {group_id(1)}
        await bus.groups.settle(None, group_id(1), "stale", "", epoch)
        assert await stored_payloads(bus) == set()

    with EmbeddedValkey(tmp_path, memory_mib=64) as payload:
        drive(valkey.url, scenario, payload_url=payload.url)


def test_whoever_acts_for_a_term_that_is_over_writes_and_deletes_nothing(valkey: EmbeddedValkey) -> None:
    """Also what carries no epoch: events, heartbeats, wishes, failed groups, completions, clean-up."""

    async def scenario(old: Bus, new: Bus, worker: Bus) -> None:
        await old.runs.create("{}", "runs/x", "now")
        epoch, _ = await make_scored(old, 3)
        old.act_for(ORCHESTRATOR, epoch)
        worker.act_for(WORKERS, await old.lease.acquire(WORKERS))
        await old.runs.emit(Alert(message="still its own"))
        await worker.registry.beat("generator", "generator-0")
        await new.lease.acquire(ORCHESTRATOR)
        await new.lease.acquire(WORKERS)
        before = await everything(new)
        attempts = [
            old.runs.emit(Alert(message="late")),
            old.runs.create("{}", "runs/elsewhere", "now"),
            old.registry.beat(ORCHESTRATOR, "orchestrator-0"),
            old.registry.announce("checkpoint-wanted", "late", 60.0),
            old.groups.fail(group_id(1), FailureReason.STALLED),
            old.streams.claim_dead("scored", ORCHESTRATOR, "orchestrator-0", count=8),
            old.runs.delete_work(),
            old.runs.delete(),
            old.decisions.begin_at(0, None, epoch),
            worker.registry.beat("generator", "generator-0"),
            worker.groups.write_completions([make_completion(worker, group_id(1), 0)]),
            worker.payloads.put({worker.payloads.text_key(group_id(1), 0, 1): b"late"}),
            worker.runs.emit(Alert(message="late")),
            worker.weights.remove_member("generator-0"),
        ]
        for attempt in attempts:
            with pytest.raises(Fenced, match=r"epoch \d+, newest \d+: another process has taken this role over"):
                await attempt
        assert await everything(new) == before

    drive(valkey.url, scenario, buses=3)


def test_a_clean_up_that_was_paused_half_way_deletes_nothing_more(valkey: EmbeddedValkey) -> None:
    async def scenario(old: Bus, new: Bus) -> None:
        epoch = await make_kept(old, 3)
        old.act_for(ORCHESTRATOR, epoch)
        scan = old.control_server.client.scan

        async def scan_and_sleep(*args: Any, **options: Any) -> Any:
            found = await scan(*args, **options)
            await new.lease.acquire(ORCHESTRATOR)
            return found

        old.control_server.client.scan = scan_and_sleep
        before = await everything(new)
        with pytest.raises(Fenced):
            await old.runs.delete_work()
        after = await everything(new)
        assert {key: value for key, value in after.items() if b"epoch" not in key and b"reply" not in key} == {
            key: value for key, value in before.items() if b"epoch" not in key and b"reply" not in key
        }

    drive(valkey.url, scenario, buses=2)


def test_who_deletes_a_run_that_it_holds_deletes_it_whole(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        bus.act_for(ORCHESTRATOR, await make_kept(bus, 30))
        await bus.runs.delete_work()
        assert {key.removeprefix(bus.keys.prefix.encode()) for key in await everything(bus)} >= {b"epoch:orchestrator"}
        await bus.runs.delete()
        assert await everything(bus) == {}

    drive(valkey.url, scenario)
