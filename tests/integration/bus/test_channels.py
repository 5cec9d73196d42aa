"""Run record, events, payloads and the weight channel, on a real Valkey."""

import asyncio
from pathlib import Path

import pytest

from dapo.bus import Bus, BusError
from dapo.bus.parts.part import KEY_BYTES
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.events import StateChanged, StepFinished
from dapo.v1 import messages_pb2 as pb
from tests.support.bus import RUN, drive, group_id, issue, make_batch, make_kept, stored_payloads


def test_the_record_of_a_run(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        with pytest.raises(BusError, match="no run 'test-run'"):
            await bus.runs.spec()
        await bus.runs.create('{"a": 1}', "runs/x", "2026-01-01")
        await bus.runs.create('{"a": 1}', "runs/x", "2026-01-01")
        with pytest.raises(BusError, match="exists with another spec"):
            await bus.runs.create('{"a": 2}', "runs/y", "2026-01-02")
        assert await bus.runs.spec() == '{"a": 1}'
        await bus.runs.set_state("failed", "the learner died", await bus.lease.acquire("orchestrator"))
        record = await bus.runs.read()
        assert (record["state"], record["message"], record["run_dir"]) == ("failed", "the learner died", "runs/x")

    drive(valkey.url, scenario)


def test_events_are_read_from_the_start_and_live(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus, other: Bus) -> None:
        await other.runs.emit(StateChanged(state="running"))
        ((first, event),) = await bus.runs.read_events("0", block_s=0)
        assert event == StateChanged(state="running")
        ((entry, fields),) = await bus.control_server.client.xrange(bus.keys.events)
        assert (entry.decode(), fields) == (
            first,
            {b"kind": b"state", b"data": b'{"state": "running", "message": ""}'},
        )
        waiting = asyncio.create_task(bus.runs.read_events(first, block_s=30))
        await asyncio.sleep(0.1)
        await other.runs.emit(StepFinished(row={"step": 1, "loss": 0.25}))
        assert [(event.kind, event.data()) for _, event in await waiting] == [("step", {"step": 1, "loss": 0.25})]
        with pytest.raises(ValueError, match="JSON"):
            await other.runs.emit(StepFinished(row={"loss": float("nan")}))

    drive(valkey.url, scenario, buses=2)


def test_events_of_a_later_release_are_passed_over(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        async def unknown() -> None:
            await bus.control_server.client.xadd(bus.keys.events, {"kind": "rollout", "data": '{"turn": 1}'})

        for _ in range(150):
            await unknown()
        assert await bus.runs.read_events("0", block_s=0) == []
        waiting = asyncio.create_task(bus.runs.read_events("0", block_s=30))
        await asyncio.sleep(0.1)
        await unknown()
        await bus.runs.emit(StateChanged(state="running"))
        await unknown()
        assert [event for _, event in await waiting] == [StateChanged(state="running")]

    drive(valkey.url, scenario)


def test_a_run_that_ended_leaves_only_its_record(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def scenario(bus: Bus) -> None:
        other = await Bus.connect(valkey.url, RUN + "2")
        await issue(other, 1)
        await bus.runs.create("{}", "runs/x", "now")
        await bus.runs.emit(StateChanged(state="failed"))
        epoch = await make_kept(bus, 30)
        await bus.batches.cut(make_batch(bus, 0, [0, 1]), epoch)
        assert await stored_payloads(bus)
        counts = await bus.groups.ledger()

        await bus.runs.delete_work()
        left = {key.decode().removeprefix(bus.keys.prefix) async for key in bus.control_server.client.scan_iter()}
        assert {name for name in left if not name.startswith("dapo:")} == {
            "run",
            "events",
            "ledger",
            "epoch:orchestrator",
        }
        assert await stored_payloads(bus) == set()
        assert await bus.groups.ledger() == counts
        assert (await bus.runs.read_events("0", block_s=0))[0][1] == StateChanged(state="failed")
        assert await other.groups.missing_indices(group_id(0)) == [0, 1, 2, 3], "another run's keys stay"
        await other.close()

    with EmbeddedValkey(tmp_path, memory_mib=16) as payload:
        drive(valkey.url, scenario, payload_url=payload.url)


def test_payloads_come_back_in_the_order_asked_for(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        blobs = {bus.payloads.payload_key("g0000000000", index, 1): bytes([index % 256]) * 100 for index in range(300)}
        await bus.payloads.put(blobs)
        wanted = [*reversed(blobs), bus.payloads.text_key("g0000000000", 0, 1)]
        assert await bus.payloads.get(wanted) == [*reversed(blobs.values()), None]
        assert await bus.payloads.used_bytes() == 300 * (100 + KEY_BYTES)
        await bus.payloads.delete(wanted)
        assert await bus.payloads.get(wanted) == [None] * 301
        assert await bus.payloads.used_bytes() == 0
        await bus.payloads.put({})
        await bus.payloads.delete([])
        assert await bus.payloads.get([]) == []

    drive(valkey.url, scenario)


def test_members_are_those_whose_heart_beats(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        assert await bus.weights.members() == []
        for name in ("generator-1", "generator-0"):
            await bus.weights.publish_member(pb.Member(generator_id=name, state="ready"))
        assert await bus.weights.members() == []
        await bus.registry.beat("generator", "generator-0", ttl_s=60)
        await bus.registry.beat("generator", "generator-1", ttl_s=60)
        assert [member.generator_id for member in await bus.weights.members()] == ["generator-0", "generator-1"]
        await bus.registry.beat("generator", "generator-1", ttl_s=0.1)
        await asyncio.sleep(0.2)
        assert [member.generator_id for member in await bus.weights.members()] == ["generator-0"]
        await bus.weights.remove_member("generator-0")
        assert await bus.weights.members() == []

    drive(valkey.url, scenario)


def test_the_records_of_the_long_dead_are_deleted_and_their_channels_expire(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        for name in ("generator-0", "generator-1"):
            await bus.registry.beat("generator", name)
            await bus.weights.publish_member(pb.Member(generator_id=name, state="ready"))
        await bus.weights.send_command("generator-1", pb.WeightCommand(serial=1))
        await bus.weights.send_reply("generator-1", pb.WeightReply(serial=1))
        client = bus.control_server.client
        for key in (bus.keys.commands("generator-1"), bus.keys.replies("generator-1")):
            assert 0 < await client.pttl(key) <= 3_600_000
        assert await bus.weights.forget_dead(0.0) == []

        await client.delete(bus.keys.heartbeat("generator", "generator-1"))
        assert await bus.weights.forget_dead(60.0) == []
        assert await client.hlen(bus.keys.members) == 2
        await bus.registry.beat("generator", "generator-1")
        assert await bus.weights.forget_dead(0.0) == [], "it has come back"
        await client.delete(bus.keys.heartbeat("generator", "generator-1"))
        assert await bus.weights.forget_dead(0.0) == ["generator-1"]
        assert await client.hkeys(bus.keys.members) == [b"generator-0"]
        assert await bus.weights.forget_dead(0.0) == []

    drive(valkey.url, scenario)


def test_commands_and_replies_pass_between_learner_and_generator(valkey: EmbeddedValkey) -> None:
    async def scenario(learner: Bus, generator: Bus) -> None:
        join = pb.WeightCommand(serial=1, deadline_s=5, join=pb.JoinGroup(group_name="generator-0-1", world_size=2))
        assert await generator.weights.last_command_id("generator-0") == "0"
        await learner.weights.send_command("generator-0", join)
        start = await generator.weights.last_command_id("generator-0")
        assert await generator.weights.read_commands("generator-0", start, block_s=0) == []
        assert [one for _, one in await generator.weights.read_commands("generator-0", "0", block_s=1)] == [join]
        first = await generator.weights.age_s(start)
        await asyncio.sleep(0.1)
        assert 0 <= first < await generator.weights.age_s(start) < 60
        waiting = asyncio.create_task(learner.weights.read_replies("generator-0", "0", block_s=30))
        reply = pb.WeightReply(serial=1, phase="done")
        await generator.weights.send_reply("generator-0", reply)
        ((_, got),) = await waiting
        assert got == reply
        assert await learner.weights.read_commands("generator-1", "0", block_s=0) == []

    drive(valkey.url, scenario, buses=2)


def test_the_published_version(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch = await bus.lease.acquire("learner")
        assert await bus.weights.published_version() is None
        for step in range(3):
            await bus.weights.publish_version(pb.Version(incarnation=epoch, step=step), epoch)
        assert await bus.weights.published_version() == pb.Version(incarnation=epoch, step=2)

    drive(valkey.url, scenario)
