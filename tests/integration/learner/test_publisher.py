"""The sending end of the weight channel over real gloo and a real Valkey: failures stay with the member that fails."""

import asyncio
import itertools

import pytest

pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from dapo.bus.keys import LEFT_OUT
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.v1 import messages_pb2 as pb
from services.learner.weights import publisher as publisher_module
from services.learner.weights import quarantine
from services.learner.weights.publisher import WeightSyncError
from tests.support.bus import read_alerts
from tests.support.learner.publishing import WAIT_S, Stage, assert_received, play, until


def test_every_member_gets_every_bucket_and_then_the_version_is_published(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        assert await stage.publish(0) is None
        assert await stage.published() is None
        await stage.joined(2)
        assert await stage.publisher.waiting(0)
        for step in (0, 1):
            assert await stage.publish(step) is not None
            assert await stage.published() == (stage.epoch, step)
            assert not await stage.publisher.waiting(step)
        for receiver in stage.receivers:
            assert_received(receiver, 2)
            assert receiver.member.version == pb.Version(incarnation=stage.epoch, step=1)

    play(valkey, {"generator-0": None, "generator-1": None}, scenario)


@pytest.mark.parametrize("fault", ["refuse-update", "hang-update"])
def test_a_failing_member_is_left_behind_and_comes_back(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(quarantine, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(quarantine, "_COST_FACTOR", 2)

    async def scenario(stage: Stage) -> None:
        good, bad = stage.receivers
        await stage.joined(2)
        assert await stage.publish(0) is not None
        assert await stage.published() == (stage.epoch, 0)
        assert_received(good, 1)
        assert bad.received == []
        alerts = await read_alerts(stage.bus)
        assert [(alert["kind"], alert["worker_id"]) for alert in alerts] == [("generator_quarantined", bad.name)]
        if fault == "hang-update":
            assert alerts[0]["pause_s"] >= 6.0
        else:
            assert alerts[0]["pause_s"] == 0.1
        assert alerts[0]["reason"].startswith("weight update: ")
        assert await stage.bus.registry.find(LEFT_OUT.format(bad.name)) == alerts[0]["reason"]
        bad.fault = None
        await stage.joined(2)
        assert await stage.publisher.waiting(0)
        await stage.publish(0)
        assert_received(bad, 1)
        assert_received(good, 1)
        assert [alert["kind"] for alert in await read_alerts(stage.bus)] == ["generator_quarantined", "generator_back"]

    play(valkey, {"generator-0": None, "generator-1": fault}, scenario, update_deadline_s=3.0)


@pytest.mark.parametrize("in_flight", ["continue", "drain"])
def test_a_member_may_take_longer_to_be_ready_while_it_drains(valkey: EmbeddedValkey, in_flight: str) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.joined(1)
        assert (await stage.publish(0) is not None) == (in_flight == "drain")
        assert [one["kind"] for one in await read_alerts(stage.bus)] == ["generator_quarantined"] * (
            in_flight == "continue"
        )

    waits = {"update_deadline_s": 2.0, "in_flight": in_flight, "drain_s": 20.0}
    play(valkey, {"generator-0": "slow-ready"}, scenario, **waits)


def test_a_member_that_never_joins_holds_up_nobody(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.joined(1)
        assert await stage.publish(0) is not None
        assert await stage.published() == (stage.epoch, 0)
        assert stage.receivers[1].received == []

        async def alerted() -> bool:
            alerts = await read_alerts(stage.bus)
            reason = "weight join: took longer than weight_sync.join_deadline_s = 2 s"
            return [alert["reason"] for alert in alerts if alert["kind"] == "generator_quarantined"] == [reason]

        await until(alerted, stage.publisher)

    play(valkey, {"generator-0": None, "generator-1": "hang-join"}, scenario, join_deadline_s=2.0)


def test_a_generator_that_started_anew_is_joined_and_served_again(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        (receiver,) = stage.receivers
        await stage.joined(1)
        await stage.publish(3)
        receiver.member.ClearField("version")
        await receiver.announce()

        async def asked_for_weights() -> bool:
            return await stage.publisher.waiting(3)

        await until(asked_for_weights, stage.publisher)
        await stage.publish(3)
        assert_received(receiver, 2)

    play(valkey, {"generator-0": None}, scenario)


def test_a_run_whose_generators_are_all_gone_goes_on(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        (receiver,) = stage.receivers
        await stage.joined(1)
        await stage.publish(0)
        receiver.member.state = "stopped"
        await receiver.announce()
        await stage.joined(0)
        assert await stage.publish(1) is not None
        assert await stage.published() == (stage.epoch, 1)

    play(valkey, {"generator-0": None}, scenario)


@pytest.mark.parametrize(("fault", "phase"), [("refuse-update", "update"), ("hang-join", "join")])
def test_the_learner_ends_only_when_no_generator_could_be_served_for_too_long(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, fault: str, phase: str
) -> None:
    monkeypatch.setattr(quarantine, "FIRST_PAUSE_S", 0.05)

    async def keep_trying(stage: Stage) -> None:
        for step in itertools.count():
            await stage.publisher.refresh()
            await stage.publish(step)
            await asyncio.sleep(0.02)

    async def alone(stage: Stage) -> None:
        words = r"weight_sync\.no_generator_s = 3 s\. generator-0: weight " + phase + r": .* \(failures in a row: \d+\)"
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(WeightSyncError, match=words):
                await keep_trying(stage)
        # However often it failed, it was told once.
        assert [alert["kind"] for alert in await read_alerts(stage.bus)] == ["generator_quarantined"]

    async def beside_another(stage: Stage) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(6.0):
                await keep_trying(stage)

    deadlines = {"update_deadline_s": 1.0, "join_deadline_s": 1.0, "no_generator_s": 3.0}
    play(valkey, {"generator-0": fault}, alone, **deadlines)
    play(valkey, {"generator-0": fault, "generator-1": None}, beside_another, **deadlines)


def test_members_that_wait_for_a_learner_that_replays_end_nothing(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.joined(1)
        stage.publisher._quarantine = quarantine.Quarantine(no_generator_s=0.5)
        for _ in range(20):
            await stage.publisher.refresh()
            await asyncio.sleep(0.1)
        assert await stage.publish(7) is not None

    play(valkey, {"generator-0": None}, scenario)


def test_a_generator_that_only_evaluates_is_none_that_the_run_could_go_on_with(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        evaluator, _ = stage.receivers
        evaluator.member.evaluates = True
        await evaluator.announce()
        await stage.joined(1)
        stage.publisher._quarantine = quarantine.Quarantine(no_generator_s=0.5)
        assert await stage.publish(0) is not None
        assert_received(evaluator, 1)

        async def wait_in_vain() -> None:
            while True:
                await stage.publisher.refresh()
                await asyncio.sleep(0.05)

        with pytest.raises(WeightSyncError):
            await asyncio.wait_for(wait_in_vain(), WAIT_S)

    faults = {"generator-0": None, "generator-1": "hang-join"}
    play(valkey, faults, scenario, join_deadline_s=1.0)


def test_a_member_is_not_judged_by_what_was_read_before_its_update(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(stage: Stage) -> None:
        await stage.joined(1)
        read = stage.bus.weights.members

        async def slow_members() -> list[pb.Member]:
            members = await read()
            await stage.publish(0)
            return members

        monkeypatch.setattr(stage.bus.weights, "members", slow_members)
        await stage.publisher.refresh()
        assert [one.served for one in stage.publisher._subscribers.values()] == [
            pb.Version(incarnation=stage.epoch, step=0)
        ]

    play(valkey, {"generator-0": None}, scenario)


@pytest.mark.parametrize("stalls", [True, False])
def test_after_an_outage_heartbeats_have_time_to_come_again(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch, stalls: bool
) -> None:
    monkeypatch.setattr(publisher_module, "_STALL_S", 0.2)

    async def scenario(stage: Stage) -> None:
        await stage.joined(1)

        async def nobody() -> list[pb.Member]:
            await asyncio.sleep(0.5 if stalls else 0.0)
            return []

        monkeypatch.setattr(stage.bus.weights, "members", nobody)
        await stage.publisher.refresh()
        assert len(stage.publisher._subscribers) == (1 if stalls else 0)

    play(valkey, {"generator-0": None}, scenario)
