"""Which scripts may be repeated, and what a connection does with them when it breaks, on a real Valkey."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import urlsplit

import pytest

from dapo.bus import Bus, BusUnavailable, Outcome
from dapo.bus.keys import RUNS
from dapo.bus.parts.part import KEY_BYTES
from dapo.bus.server.connection import Argument
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.bus.server.scripts import SCRIPTS
from dapo.v1 import messages_pb2 as pb
from tests.support.agent.scenarios import (
    NONCE,
    Arguments,
    beat_agent,
    clear_agent,
    leave_agent,
    place_worker,
    withdraw_worker,
)
from tests.support.bus import (
    RUN,
    drive,
    everything,
    generate,
    grade,
    group_id,
    issue,
    make_batch,
    make_completion,
    make_kept,
    make_scored,
    make_task,
    stream_length,
)


async def small_write(bus: Bus) -> Arguments:
    return "HSET", bus.keys.run, "state", "running"


async def fenced_write(bus: Bus) -> Arguments:
    return "learner", await bus.lease.acquire("learner"), "HSET", bus.keys.run, "state", "running"


async def append(bus: Bus) -> Arguments:
    return NONCE, bus.keys.events, "~", 100, "kind", "alert", "data", "{}"


async def take_lease(bus: Bus) -> Arguments:
    return NONCE, "holder", 600_000, "running", ""


async def acquire_epoch(bus: Bus) -> Arguments:
    return NONCE, "learner", 0


async def claim(bus: Bus) -> Arguments:
    """One of two entries that a dead consumer left."""
    await issue(bus, 2)
    await bus.streams.consume("prompts", "generator-0", count=2, block_s=0)
    await bus.control_server.client.delete(bus.keys.heartbeat("generator", "generator-0"))
    return "prompts", "generator-1", "process1", 1, 0


async def hand_back(bus: Bus) -> Arguments:
    """All that a generator holds, and its consumer."""
    await issue(bus, 2)
    await bus.streams.consume("prompts", "generator-0", count=1, block_s=0)
    return "prompts", "generator-0", "process0", 1


async def issue_groups(bus: Bus) -> Arguments:
    epoch, task = await issue(bus, 1), make_task(7)
    return epoch, "prompts", task.group_id, task.group_size, 0, task.SerializeToString(), "0 7", group_id(0)


async def write_completions(bus: Bus) -> Arguments:
    await issue(bus, 1, size=2)
    made = [make_completion(bus, group_id(0), index) for index in range(2)]
    return [part for one in made for part in (one.group_id, one.index, one.SerializeToString())]


async def write_grades(bus: Bus) -> Arguments:
    await issue(bus, 1, size=2)
    await generate(bus, await bus.streams.consume("prompts", "generator-0", count=1, block_s=0))
    taken = await bus.streams.consume("completions", "verifier-0", count=2, block_s=0)
    arguments: list[Argument] = []
    for delivery, one in map(grade, taken):
        arguments += (delivery.message_id, group_id(0), one.completion.index, delivery.data, one.SerializeToString())
    return arguments


async def fail_group(bus: Bus) -> Arguments:
    await issue(bus, 1)
    (taken,) = await bus.streams.consume("prompts", "generator-0", count=1, block_s=0)
    return NONCE, group_id(0), "prompt_too_long", "", "prompts", taken.message_id, taken.data, 100


async def refill(bus: Bus) -> Arguments:
    """One of two responses of a group that was generated."""
    await issue(bus, 1, size=2)
    await generate(bus, await bus.streams.consume("prompts", "generator-0", count=1, block_s=0))
    lost, _ = await bus.streams.consume("completions", "verifier-0", count=2, block_s=0)
    return NONCE, group_id(0), 0, lost.data, lost.message_id, 3, "generator-0", 0


async def settle_group(bus: Bus) -> Arguments:
    epoch, (scored,) = await make_scored(bus, 1)
    return NONCE, epoch, group_id(0), "filtered", "all wrong", scored.message_id, 100, "d.jsonl:1", "1 -1 all wrong"


async def close_groups(bus: Bus) -> Arguments:
    epoch = await issue(bus, 3)
    return epoch, "run complete", group_id(0), group_id(1)


async def cut_batch(bus: Bus) -> Arguments:
    epoch = await make_kept(bus, 2)
    return epoch, 0, make_batch(bus, 0, [0]).SerializeToString(deterministic=True), "{}", 1, group_id(0)


async def cut_one(bus: Bus) -> int:
    """The learner's epoch, with batch 0 of group 0 in the log."""
    await bus.batches.cut(make_batch(bus, 0, [0]), await make_kept(bus, 2))
    return await bus.lease.acquire("learner")


async def record_step(bus: Bus) -> Arguments:
    return await cut_one(bus), 0, pb.StepReport(batch=0).SerializeToString(), 100, group_id(0)


async def commit_checkpoint(bus: Bus) -> Arguments:
    learner = await cut_one(bus)
    await bus.batches.record_step(pb.StepReport(batch=0), [group_id(0)], learner)
    return learner, 0, group_id(0)


async def retire_groups(bus: Bus) -> Arguments:
    epoch, _ = await make_scored(bus, 3)
    for number in range(3):
        arguments = (f"nonce-{number}", epoch, group_id(number), "filtered", "", "", 100, "", "")
        await bus.control_server.script("settle_group", bus.keys.prefix, *arguments)
    return 1, *map(group_id, range(3))


async def begin_at(bus: Bus) -> Arguments:
    epoch = await issue(bus, 1)
    return epoch, 3, "g0000000012 1 5", "e0000000003", "{}", "101", 2, 1, "trained", 12, "g0000000009", "1 2"


async def set_version(bus: Bus) -> Arguments:
    return await bus.lease.acquire("learner"), pb.Version(incarnation=1, step=3).SerializeToString()


async def put_payloads(bus: Bus) -> Arguments:
    """One blob in the place of another, one that is new, one that is empty."""
    first, second, third = (bus.payloads.payload_key(group_id(0), index, 0) for index in range(3))
    await bus.payloads.put({first: b"longer than the next", second: b"y"})
    return KEY_BYTES, first, b"short", third, b"z", bus.payloads.text_key(group_id(0), 2, 0), b""


async def delete_keys(bus: Bus) -> Arguments:
    """Two, and one that is not there."""
    await bus.control_server.client.mset({bus.keys.address(name): "x" for name in "ab"})
    return tuple(bus.keys.address(name) for name in "abc")


async def delete_payloads(bus: Bus) -> Arguments:
    """Two of three, and one that is not there."""
    keys = [bus.payloads.payload_key(group_id(0), index, 0) for index in range(4)]
    await bus.payloads.put({keys[0]: b"x", keys[1]: b"", keys[2]: b"z"})
    return KEY_BYTES, keys[0], keys[1], keys[3]


async def unlist(bus: Bus) -> Arguments:
    await bus.control_server.client.hset(RUNS, RUN, "{}")
    return (RUN,)


SCENARIOS: dict[str, Callable[[Bus], Awaitable[Arguments]]] = {
    one.__name__: one
    for one in (
        *(small_write, fenced_write, append, take_lease, acquire_epoch, claim, hand_back, issue_groups),
        write_completions,
        *(write_grades, fail_group, refill, settle_group, close_groups, cut_batch, record_step, commit_checkpoint),
        *(retire_groups, begin_at, set_version, put_payloads, delete_keys, delete_payloads, unlist),
        *(beat_agent, clear_agent, leave_agent, place_worker, withdraw_worker),
    )
}


def test_every_script_has_a_scenario() -> None:
    assert set(SCENARIOS) == set(SCRIPTS)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_a_script_is_declared_repeatable_exactly_when_it_leaves_the_same_state(
    valkey: EmbeddedValkey, name: str
) -> None:
    async def scenario(bus: Bus) -> None:
        arguments = await SCENARIOS[name](bus)
        before = await everything(bus)
        first = await bus.control_server.script(name, bus.keys.prefix, *arguments)
        once = await everything(bus)
        assert once != before, "the scenario lets the script do nothing"
        second = await bus.control_server.script(name, bus.keys.prefix, *arguments)
        assert (await everything(bus) == once) == SCRIPTS[name].repeatable
        if NONCE in arguments:
            assert second == first

    drive(valkey.url, scenario)


def test_a_small_write_that_may_not_be_repeated_is_refused(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        for command in ("XADD", "INCR", "RPUSH"):
            use = "HDEL, HSET, HSETNX, PEXPIRE, SET, XGROUP"
            with pytest.raises(ValueError, match=f"{command} is no small write: use {use}"):
                await bus.control_server.small_write(bus.keys.prefix, command, f"{bus.keys.prefix}x", 1)

    drive(valkey.url, scenario)


class LossyProxy:
    """Stands before a server; `lose_reply` lets it carry out one more request and then breaks the connection."""

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.lose_reply = False
        self.url = ""

    async def __aenter__(self) -> "LossyProxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"redis://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/0"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_connection(self._target.hostname, self._target.port)

        async def forward() -> None:
            while data := await reader.read(1 << 16):
                inner_writer.write(data)
            inner_writer.close()

        forwarding = asyncio.create_task(forward())
        while data := await inner_reader.read(1 << 16):
            if self.lose_reply:
                self.lose_reply = False
                break
            writer.write(data)
        writer.close()
        await forwarding


def through_a_lossy_connection(valkey: EmbeddedValkey, scenario: Callable[[Bus, LossyProxy], Awaitable[None]]) -> None:
    async def main() -> None:
        async with LossyProxy(valkey.url) as proxy:
            bus = await Bus.connect(proxy.url, RUN, instance="process0")
            try:
                await scenario(bus, proxy)
            finally:
                await bus.close()

    asyncio.run(main())


def test_what_is_appended_stands_once_though_its_reply_was_lost(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus, proxy: LossyProxy) -> None:
        command = pb.WeightCommand(serial=1, deadline_s=5)
        proxy.lose_reply = True
        await bus.weights.send_command("generator-0", command)
        assert not proxy.lose_reply
        assert [one for _, one in await bus.weights.read_commands("generator-0", "0", block_s=0)] == [command]
        proxy.lose_reply = True
        assert await bus.lease.acquire("learner") == 1
        await issue(bus, 1)
        proxy.lose_reply = True
        await bus.groups.fail(group_id(0), "grader_failed")
        assert len(await bus.dead_letters.read()) == 1

    through_a_lossy_connection(valkey, scenario)


def test_a_decision_whose_reply_was_lost_was_taken_once(valkey: EmbeddedValkey) -> None:
    """Whoever settled the group must learn that it did, or it would wait for the group for ever."""

    async def scenario(bus: Bus, proxy: LossyProxy) -> None:
        epoch, (scored,) = await make_scored(bus, 1)
        proxy.lose_reply = True
        assert await bus.groups.settle(scored, group_id(0), "kept", "", epoch) == Outcome.WRITTEN
        assert not proxy.lose_reply
        assert await bus.groups.settle(scored, group_id(0), "kept", "", epoch) == Outcome.DUPLICATE

    through_a_lossy_connection(valkey, scenario)


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_whoever_loses_a_reply_is_where_it_would_be_with_it(valkey: EmbeddedValkey, name: str) -> None:
    """It gets the reply of a second execution, and the server is as after one; or it is told that it lost one."""

    async def scenario(bus: Bus, proxy: LossyProxy) -> None:
        arguments = await SCENARIOS[name](bus)
        call = partial(bus.control_server.script, name, bus.keys.prefix, *arguments)
        proxy.lose_reply = True
        if not SCRIPTS[name].repeatable:
            with pytest.raises(BusUnavailable):
                await call()
            return
        found = await call()
        assert not proxy.lose_reply
        once = await everything(bus)
        assert await call() == found
        assert await everything(bus) == once

    through_a_lossy_connection(valkey, scenario)


def test_a_claim_whose_reply_was_lost_is_not_repeated_and_comes_later(
    valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dapo.bus.parts.streams.BLOCK_SLICE_S", 0.1)
    monkeypatch.setattr("dapo.bus.parts.streams.HEARTBEAT_TTL_S", 0.05)

    async def scenario(bus: Bus, proxy: LossyProxy) -> None:
        dead = await Bus.connect(valkey.url, RUN, instance="process1")
        await issue(bus, 2)
        left = await dead.streams.consume("prompts", "generator-1", count=2, block_s=0)
        await dead.control_server.client.delete(bus.keys.heartbeat("generator", "generator-1"))
        await dead.close()
        assert await bus.streams.consume("prompts", "generator-0", count=1, block_s=0) == []
        proxy.lose_reply = True
        assert await bus.streams.claim_dead("prompts", "generator", "generator-0", count=1) == []
        await asyncio.sleep(0.1)
        (second,) = await bus.streams.claim_dead("prompts", "generator", "generator-0", count=2)
        await asyncio.sleep(0.2)
        (first,) = await bus.streams.consume("prompts", "generator-0", count=2, block_s=0)
        assert [first.message_id, second.message_id] == [one.message_id for one in left]
        assert await stream_length(bus, "prompts") == 2

    through_a_lossy_connection(valkey, scenario)
