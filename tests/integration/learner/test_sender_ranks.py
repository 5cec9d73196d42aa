"""Several learner ranks that send weights: rank 0 decides over the bus, each rank has the failures of its own members.

In one process, with real gloo and a real Valkey; at the end the ranks of a real learner.
"""

import asyncio
import re
import signal
import time
from collections import Counter
from pathlib import Path
from typing import ClassVar
from weakref import WeakSet

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from dapo.bus import Bus  # noqa: E402
from dapo.bus.server.embedded import EmbeddedValkey  # noqa: E402
from dapo.v1 import messages_pb2 as pb  # noqa: E402
from services.learner.weights import quarantine  # noqa: E402
from services.learner.weights.sender import QUEUED_BUCKETS  # noqa: E402
from tests.integration.learner.test_dying_members import FAR_S, VICTIM, quarantined, refreshing, victim  # noqa: E402
from tests.support.bus import make_kept, read_alerts  # noqa: E402
from tests.support.learner.processes import (  # noqa: E402
    GROUP_SIZE,
    exit_codes,
    make_batch,
    make_spec,
    payload,
    payload_keys,
    start_ranks,
)
from tests.support.learner.processes import play as play_processes  # noqa: E402
from tests.support.learner.processes import until as until_processes  # noqa: E402
from tests.support.learner.publishing import WAIT_S, Stage, assert_received, play, until  # noqa: E402
from tests.support.learner.weight_receiver import Receiver  # noqa: E402
from tests.support.models import save_model  # noqa: E402


class Ranks(Stage):
    ranks = 2
    feeds = False

    def rank_of(self, receiver: Receiver) -> int:
        return self.publisher._subscribers[receiver.name].rank


class FedRanks(Ranks):
    feeds = True


class LargeRanks(Ranks):
    buckets: ClassVar = [torch.full((16 * 2**20,), fill, dtype=torch.uint8) for fill in range(12)]


class FedLargeRanks(LargeRanks):
    feeds = True


@pytest.mark.parametrize("kind", [Ranks, FedRanks])
def test_members_are_divided_among_the_ranks_and_all_are_served(valkey: EmbeddedValkey, kind: type[Ranks]) -> None:
    async def scenario(stage: Stage) -> None:
        assert isinstance(stage, Ranks)
        await stage.joined(4)
        assert Counter(map(stage.rank_of, stage.receivers)) == {0: 2, 1: 2}
        for step in (0, 1):
            assert await stage.publish(step) is not None
            assert await stage.published() == (stage.epoch, step)
            assert not await stage.publisher.waiting(step)
        for receiver in stage.receivers:
            assert_received(receiver, 2)
            assert receiver.member.version == pb.Version(incarnation=stage.epoch, step=1)
            sent = await stage.bus.weights.read_commands(receiver.name, "0", block_s=0)
            assert [len(command.update.buckets) for _, command in sent if command.HasField("update")] == [2, 0]

    play(valkey, {f"generator-{number}": None for number in range(4)}, scenario, kind=kind)


def test_a_version_that_only_the_other_rank_sends_is_published(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        assert isinstance(stage, Ranks)
        for receiver in stage.receivers:
            receiver.member.host = "host1"
            await receiver.announce()
        await stage.joined(1)
        assert stage.rank_of(stage.receivers[0]) == 1
        assert await stage.publish(0) is not None
        assert_received(stage.receivers[0], 1)

    play(valkey, {"generator-0": None}, scenario, kind=Ranks)


@pytest.mark.parametrize("fault", ["refuse-update", "hang-update", "hang-ready"])
def test_a_member_of_another_rank_that_fails_is_left_behind_and_comes_back(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(quarantine, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(quarantine, "_COST_FACTOR", 0)

    async def scenario(stage: Stage) -> None:
        assert isinstance(stage, Ranks)
        good, bad = stage.receivers
        bad.member.host = "host1"
        await bad.announce()
        await stage.joined(2)
        assert (stage.rank_of(good), stage.rank_of(bad)) == (0, 1)
        assert await stage.publish(0) is not None
        assert await stage.published() == (stage.epoch, 0)
        assert_received(good, 1)
        (alert,) = await read_alerts(stage.bus)
        assert (alert["kind"], alert["worker_id"]) == ("generator_quarantined", bad.name)
        slow = "took longer than weight_sync.update_deadline_s = 3 s"
        assert alert["reason"] == f"weight update: {'no such tensor' if fault == 'refuse-update' else slow}"
        bad.fault = None
        await stage.joined(2)
        await stage.publish(0)
        assert [len(bucket) for bucket in bad.received[-1]] == [100, 37]
        assert [alert["kind"] for alert in await read_alerts(stage.bus)] == ["generator_quarantined", "generator_back"]

    play(valkey, {"generator-0": None, "generator-1": fault}, scenario, kind=Ranks, update_deadline_s=3.0)


def test_a_member_that_never_joins_another_rank_holds_up_nobody(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.joined(1)
        assert await stage.publish(0) is not None

        async def alerted() -> bool:
            return await quarantined(stage) == ["weight join: took longer than weight_sync.join_deadline_s = 2 s"]

        await until(alerted, stage.publisher)

    play(valkey, {"generator-0": None, "generator-1": "hang-join"}, scenario, kind=Ranks, join_deadline_s=2.0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_member_of_another_rank_that_dies_during_an_update_is_dropped(
    valkey: EmbeddedValkey, number: signal.Signals
) -> None:
    async def scenario(stage: Stage) -> None:
        assert isinstance(stage, Ranks)
        async with victim(valkey.url) as process:
            await stage.joined(2)
            assert stage.publisher._subscribers[VICTIM].rank == 1
            async with refreshing(stage), asyncio.timeout(WAIT_S):
                began = time.monotonic()
                publishing = asyncio.create_task(stage.publish(0))
                await asyncio.sleep(0.5)
                process.send_signal(number)
                await publishing
                took_s = time.monotonic() - began
            assert took_s < 15.0
            assert await stage.published() == (stage.epoch, 0)
            assert_received(stage.receivers[0], 1, stage.buckets)
            (reason,) = await quarantined(stage)
            assert ("heartbeat has stopped" in reason) or (number == signal.SIGKILL and "broadcast failed" in reason)

    far = {"update_deadline_s": FAR_S, "lag_deadline_s": FAR_S}
    play(valkey, {"generator-0": None}, scenario, kind=LargeRanks, **far)


def test_a_slow_member_of_the_same_rank_delays_nobody_where_members_draw(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        good, slow = stage.receivers
        for receiver in stage.receivers:
            receiver.member.host = "host0"
        slow.bucket_s = 0.5
        await stage.joined(2)
        publishing = asyncio.create_task(stage.publish(0))

        async def good_serves() -> bool:
            return good.member.HasField("version")

        await until(good_serves, stage.publisher)
        assert len(slow.received[0]) < len(stage.buckets) - 2
        assert await publishing is not None
        assert_received(slow, 1, stage.buckets)

    class OneRank(LargeRanks):
        ranks = 1

    play(valkey, {"generator-0": None, "generator-1": None}, scenario, kind=OneRank)


@pytest.mark.parametrize("kind", [LargeRanks, FedLargeRanks])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_member_that_stands_still_is_given_up_once_others_are_ahead(
    valkey: EmbeddedValkey, kind: type[Ranks], rank: int
) -> None:
    """Its own deadline is an hour away, and its heart beats."""

    async def scenario(stage: Stage) -> None:
        assert isinstance(stage, Ranks)
        still = stage.receivers[rank]
        await stage.joined(4)
        assert [stage.rank_of(receiver) for receiver in stage.receivers] == [0, 1, 0, 1]
        began = time.monotonic()
        async with asyncio.timeout(WAIT_S):
            assert await stage.publish(0) is not None
        assert 2.0 <= time.monotonic() - began < 20.0
        assert await stage.published() == (stage.epoch, 0)
        (reason,) = await quarantined(stage)
        assert "of 12 buckets, and none for weight_sync.lag_deadline_s = 2 s, while another went on" in reason
        for receiver in stage.receivers:
            if receiver is not still:
                assert_received(receiver, 1, stage.buckets)

    faults = {f"generator-{number}": "hang-update" if number == rank else None for number in range(4)}
    play(valkey, faults, scenario, kind=kind, update_deadline_s=FAR_S, lag_deadline_s=2.0)


def test_a_slow_member_that_is_alone_is_waited_for(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        (slow,) = stage.receivers
        slow.bucket_s = 0.6
        await stage.joined(1)
        assert await stage.publish(0) is not None
        assert_received(slow, 1, stage.buckets)

    play(valkey, {"generator-0": None}, scenario, kind=LargeRanks, lag_deadline_s=0.1)


def test_few_buckets_are_in_memory_at_a_time(valkey: EmbeddedValkey) -> None:
    """Of a slow member and a fast one, which are as far apart as they can be."""
    alive: WeakSet[torch.Tensor] = WeakSet()
    most = 0

    class Counted(LargeRanks):
        ranks = 1

        async def publish(self, step: int) -> float | None:
            def make(position: int) -> torch.Tensor:
                nonlocal most
                made = self.buckets[position].clone()
                alive.add(made)
                most = max(most, len(alive))
                return made

            await self.begin(step)
            await self.rounds[0].draw(make)
            return await self.publisher.finish(step)

    async def scenario(stage: Stage) -> None:
        stage.receivers[0].bucket_s = 0.2
        await stage.joined(2)
        assert await stage.publish(0) is not None
        for receiver in stage.receivers:
            assert_received(receiver, 1, stage.buckets)

    play(valkey, {"generator-0": None, "generator-1": None}, scenario, kind=Counted)
    assert 2 <= most <= 2 * (QUEUED_BUCKETS + 2)


def test_what_an_earlier_learner_has_ordered_and_reported_is_passed_over(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        old = stage.epoch - 1
        for serial in range(1, 20):
            update = pb.SendUpdate(version=pb.Version(incarnation=old, step=99), group_names=["gone"])
            await stage.bus.weights.send_order(1, pb.SenderOrder(serial=serial, incarnation=old, update=update))
            name = f"generator-1-{stage.epoch}-1"
            await stage.bus.weights.send_report(
                pb.SenderReport(serial=serial, group_name=name, phase="failed", error="old", incarnation=old)
            )
        await stage.joined(2)
        assert await stage.publish(0) is not None
        assert await quarantined(stage) == []
        for receiver in stage.receivers:
            assert_received(receiver, 1)

    play(valkey, {"generator-0": None, "generator-1": None}, scenario, kind=Ranks)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("zero_stage", "share"), [(0, 1.0), (1, 1.0), (3, 1.0), (3, 0.5)])
def test_the_ranks_of_a_learner_send_the_same_weights(
    valkey: EmbeddedValkey, tmp_path: Path, zero_stage: int, share: float
) -> None:
    """On one machine: with a share of a half one of the two is the sender, and the other gathers with it."""
    save_model(tmp_path / "model", 0)
    spec = make_spec(tmp_path / "model", zero_stage=zero_stage)
    spec = spec.model_copy(update={"weight_sync": spec.weight_sync.model_copy(update={"sender_share": share})})

    async def scenario(bus: Bus, processes: list[asyncio.subprocess.Process]) -> None:
        await bus.runs.create(spec.model_dump_json(), str(tmp_path), "2026-01-01T00:00:00Z")
        epoch = await make_kept(bus, 4, GROUP_SIZE)
        batches = [make_batch(bus, number) for number in range(2)]
        await bus.payloads.put(dict.fromkeys(payload_keys(batches), payload()))
        receivers = [Receiver(bus, f"generator-{number}") for number in range(3)]
        receiving = [asyncio.create_task(receiver.run()) for receiver in receivers]
        processes += await start_ranks(valkey.url, tmp_path)

        async def all_serve(step: int) -> bool:
            return all(one.member.HasField("version") and one.member.version.step == step for one in receivers)

        await until_processes(lambda: all_serve(0), processes)
        for batch in batches:
            await bus.batches.cut(batch, epoch)
        await until_processes(lambda: all_serve(2), processes)
        await bus.batches.cut(pb.TrainBatch(batch=2, end=True), epoch)
        assert await exit_codes(processes) == [0, 0]
        first, *others = [torch.cat(receiver.received[-1]) for receiver in receivers]
        assert first.numel() > 1000
        assert not torch.equal(first, torch.cat(receivers[0].received[0]))
        for other in others:
            assert torch.equal(first, other)
        assert await read_alerts(bus) == []
        for task in receiving:
            task.cancel()

    play_processes(valkey.url, scenario)
    joined = re.findall(r"joined weight group \S+ of rank (\d)", (tmp_path / "learner-0.log").read_text())
    assert sorted(Counter(joined).values()) == ([1, 2] if share == 1.0 else [3])
