"""Run record, events, payloads and the weight channel, on a real Valkey."""

import asyncio
from pathlib import Path

import pytest

from dapo.bus import Bus, BusError
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.v1 import messages_pb2 as pb
from tests.support.bus import RUN, drive, group_id, issue, make_batch, make_kept, stored_payloads


def test_the_record_of_a_run(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        with pytest.raises(BusError, match="no run 'test-run'"):
            await bus.read_spec()
        await bus.create_run('{"a": 1}', "runs/x", "2026-01-01")
        await bus.create_run('{"a": 1}', "runs/x", "2026-01-01")
        with pytest.raises(BusError, match="exists with another spec"):
            await bus.create_run('{"a": 2}', "runs/y", "2026-01-02")
        assert await bus.read_spec() == '{"a": 1}'
        await bus.set_run_state("failed", "the learner died")
        record = await bus.read_run()
        assert (record["state"], record["message"], record["run_dir"]) == ("failed", "the learner died", "runs/x")

    drive(valkey.url, scenario)


def test_events_are_read_from_the_start_and_live(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus, other: Bus) -> None:
        await other.emit_event("state", {"state": "running"})
        ((first, kind, data),) = await bus.read_events("0", block_s=0)
        assert (kind, data) == ("state", {"state": "running"})
        waiting = asyncio.create_task(bus.read_events(first, block_s=30))
        await asyncio.sleep(0.1)
        await other.emit_event("step", {"step": 1, "loss": 0.25})
        assert [(kind, data) for _, kind, data in await waiting] == [("step", {"step": 1, "loss": 0.25})]
        with pytest.raises(ValueError, match="JSON"):
            await other.emit_event("step", {"loss": float("nan")})

    drive(valkey.url, scenario, buses=2)


def test_a_run_that_ended_leaves_only_its_record(valkey: EmbeddedValkey, tmp_path: Path) -> None:
    async def scenario(bus: Bus) -> None:
        other = await Bus.connect(valkey.url, RUN + "2")
        await issue(other, 1)
        await bus.create_run("{}", "runs/x", "now")
        await bus.emit_event("state", {"state": "failed"})
        epoch = await make_kept(bus, 30)
        await bus.cut_batch(make_batch(bus, 0, [0, 1]), epoch)
        assert await stored_payloads(bus)
        counts = await bus.ledger_counts()

        await bus.delete_work()
        left = {key.decode().removeprefix(bus.keys.prefix) async for key in bus.control.client.scan_iter()}
        assert {name for name in left if not name.startswith("dapo:")} == {"run", "events", "ledger"}
        assert await stored_payloads(bus) == set()
        assert await bus.ledger_counts() == counts
        assert (await bus.read_events("0", block_s=0))[0][1:] == ("state", {"state": "failed"})
        assert await other.missing_indices(group_id(0)) == [0, 1, 2, 3], "another run's keys stay"
        await other.close()

    with EmbeddedValkey(tmp_path, memory_mib=16) as payload:
        drive(valkey.url, scenario, payload_url=payload.url)


def test_payloads_come_back_in_the_order_asked_for(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        blobs = {bus.payload_key("g0000000000", index, 1): bytes([index % 256]) * 100 for index in range(300)}
        await bus.put_payloads(blobs)
        wanted = [*reversed(blobs), bus.text_key("g0000000000", 0, 1)]
        assert await bus.get_payloads(wanted) == [*reversed(blobs.values()), None]
        assert await bus.payload_bytes() > 30_000
        await bus.delete_payloads(wanted)
        assert await bus.get_payloads(wanted) == [None] * 301
        await bus.put_payloads({})
        await bus.delete_payloads([])
        assert await bus.get_payloads([]) == []

    drive(valkey.url, scenario)


def test_members_are_those_whose_heart_beats(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        assert await bus.members() == []
        for name in ("generator-1", "generator-0"):
            await bus.publish_member(pb.Member(generator_id=name, state="ready"))
        assert await bus.members() == []
        await bus.heartbeat("generator", "generator-0", ttl_s=60)
        await bus.heartbeat("generator", "generator-1", ttl_s=0.3)
        assert [member.generator_id for member in await bus.members()] == ["generator-0", "generator-1"]
        await asyncio.sleep(0.4)
        assert [member.generator_id for member in await bus.members()] == ["generator-0"]
        await bus.remove_member("generator-0")
        assert await bus.members() == []

    drive(valkey.url, scenario)


def test_commands_and_replies_pass_between_learner_and_generator(valkey: EmbeddedValkey) -> None:
    async def scenario(learner: Bus, generator: Bus) -> None:
        join = pb.WeightCommand(serial=1, deadline_s=5, join=pb.JoinGroup(group_name="generator-0-1", world_size=2))
        assert await generator.last_command_id("generator-0") == "0"
        await learner.send_command("generator-0", join)
        start = await generator.last_command_id("generator-0")
        assert await generator.read_commands("generator-0", start, block_s=0) == []
        assert [one for _, one in await generator.read_commands("generator-0", "0", block_s=1)] == [join]
        waiting = asyncio.create_task(learner.read_replies("generator-0", "0", block_s=30))
        reply = pb.WeightReply(serial=1, phase="done")
        await generator.send_reply("generator-0", reply)
        ((_, got),) = await waiting
        assert got == reply
        assert await learner.read_commands("generator-1", "0", block_s=0) == []

    drive(valkey.url, scenario, buses=2)


def test_the_published_version(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        epoch = await bus.acquire_epoch("learner")
        assert await bus.published_version() is None
        for step in range(3):
            await bus.set_published_version(pb.Version(incarnation=epoch, step=step), epoch)
        assert await bus.published_version() == pb.Version(incarnation=epoch, step=2)

    drive(valkey.url, scenario)
