"""What the bus says and keeps when the server is absent, wrong, full, or comes back empty."""

import asyncio
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from redis.asyncio import Redis

from dapo.bus import Bus, BusError, BusFull, BusUnavailable, Outcome
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.contracts.events import Alert
from dapo.v1 import messages_pb2 as pb
from tests.support.bus import (
    drive,
    generate,
    group_id,
    issue,
    make_batch,
    make_completion,
    make_kept,
    score,
    stored_payloads,
)


def connect(url: str, **options: str) -> None:
    async def main() -> None:
        await (await Bus.connect(url, "run", **options)).close()

    asyncio.run(main())


def test_a_server_that_does_not_answer_is_named_with_the_cure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(BusUnavailable) as caught:
            connect(f"redis://user:secret@{address}/0")
    text = str(caught.value)
    assert f"redis://***@{address}/0" in text
    assert "secret" not in text
    assert "resources.redis.url" in text


@pytest.mark.parametrize("url", ["localhost:6379", "http://localhost:6379", ""])
def test_what_is_no_redis_url_is_explained(url: str) -> None:
    with pytest.raises(BusUnavailable, match="Write redis://"):
        connect(url)


def test_an_absent_payload_server_is_noticed_at_once(valkey: EmbeddedValkey) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(BusUnavailable, match=str(port)):
            connect(valkey.url, payload_url=f"redis://127.0.0.1:{port}")


def test_a_refused_password_is_told_apart(valkey: EmbeddedValkey) -> None:
    with pytest.raises(BusUnavailable, match="password"):
        connect(valkey.url.replace("redis://", "redis://user:secret@"))


def test_something_that_is_not_redis_is_refused() -> None:
    async def main() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            with pytest.raises(BusError, match=str(port)):
                await Bus.connect(f"redis://127.0.0.1:{port}", "run")

    asyncio.run(main())


def test_an_old_server_is_refused(valkey: EmbeddedValkey, monkeypatch: pytest.MonkeyPatch) -> None:
    async def old(self: Redis, section: str) -> dict[str, str]:
        return {"redis_version": "6.2.14"}

    monkeypatch.setattr(Redis, "info", old)
    with pytest.raises(BusUnavailable, match=r"is Redis 6\.2\.14: the bus needs Redis ≥ 7"):
        connect(valkey.url)


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_is_refused_with_the_cure(tmp_path: Path, policy: str) -> None:
    async def scenario(bus: Bus) -> None:
        await bus.control_server.client.config_set("maxmemory-policy", policy)

    with EmbeddedValkey(tmp_path, memory_mib=16) as server:
        drive(server.url, scenario)
        with pytest.raises(
            BusUnavailable, match=rf"maxmemory-policy {policy}[\s\S]*CONFIG SET maxmemory-policy noeviction"
        ):
            connect(server.url)


async def memory(bus: Bus) -> dict[str, int]:
    return await bus.control_server.client.info("memory")


def test_a_full_server_refuses_new_work_and_can_still_be_drained(tmp_path: Path) -> None:
    async def scenario(bus: Bus) -> None:
        epoch, learner = await make_kept(bus, 2), await bus.lease.acquire("learner")
        await bus.groups.issue([], epoch)
        await bus.runs.create("{}", "runs/x", "now")
        blobs: dict[str, bytes] = {}

        async def fill() -> None:
            for index in range(1000):
                blob = {bus.payloads.payload_key(group_id(9), index, 1): bytes(1 << 18)}
                await bus.payloads.put(blob)
                blobs.update(blob)

        assert await bus.payloads.refuses() == ""
        with pytest.raises(BusFull, match=r"memory limit \(maxmemory\).*resources\.redis\.memory_mib"):
            await fill()
        assert blobs
        # The refused blob itself is gone again, so there is a little room: take it away.
        await bus.control_server.client.config_set("maxmemory", (await memory(bus))["used_memory"] - (1 << 19))
        assert await bus.payloads.refuses() == small.url
        assert [len(blob or b"") for blob in await bus.payloads.get(list(blobs))] == [1 << 18] * len(blobs)

        with pytest.raises(BusFull):
            await issue(bus, 10)
        epoch = await bus.lease.acquire("orchestrator")
        assert await bus.groups.issued_total() == 2
        with pytest.raises(BusFull):
            await bus.groups.write_completions([make_completion(bus, group_id(9), 0)])

        await bus.registry.beat("generator", "generator-0")
        await bus.runs.set_state("running", "", epoch)
        await bus.runs.emit(Alert(message="memory is full"))
        await bus.batches.cut(make_batch(bus, 0, [0]), epoch)
        await bus.batches.record_step(pb.StepReport(batch=0), [group_id(0)], learner)
        await bus.batches.commit_checkpoint(0, learner)
        assert await bus.groups.close_open("memory is full", epoch) == 1
        assert await stored_payloads(bus) == set(blobs)
        await bus.payloads.delete(list(blobs))

        await issue(bus, 5)
        await generate(bus, await bus.streams.consume("prompts", "generator-0", count=10, block_s=0))
        await score(bus)
        assert (await bus.groups.ledger())["scored"] == 3

    with EmbeddedValkey(tmp_path, memory_mib=8) as small:
        drive(small.url, scenario)


def test_many_commands_may_be_under_way_and_be_cancelled(valkey: EmbeddedValkey) -> None:
    """A batch of groups of one response is settled nearly at once."""

    async def main() -> None:
        bus = await Bus.connect(valkey.url, "crowd")
        beats = [asyncio.create_task(bus.registry.beat("learner", f"worker-{number}")) for number in range(500)]
        await asyncio.sleep(0)
        for beat in beats[::3]:
            beat.cancel()
        ended = await asyncio.gather(*beats, return_exceptions=True)
        assert {type(one) for one in ended} <= {type(None), asyncio.CancelledError}
        await asyncio.gather(*(bus.registry.beat("learner", f"worker-{number}") for number in range(300)))
        await bus.close()

    asyncio.run(main())


def test_scripts_are_sent_again_to_a_server_that_forgot_them(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        await bus.control_server.client.script_flush()
        await issue(bus, 100)
        assert await bus.groups.issued_total() == 100
        await bus.control_server.client.script_flush()
        completions = [make_completion(bus, group_id(group), 0) for group in range(100)]
        assert await bus.groups.write_completions(completions) == [Outcome.WRITTEN] * 100

    drive(valkey.url, scenario)


def test_a_server_that_came_back_empty_is_reported_and_then_usable(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        await issue(bus, 1)
        await bus.streams.consume("prompts", "generator-0", count=1, block_s=0)
        await bus.control_server.client.flushall()
        with pytest.raises(BusError, match="has lost the run"):
            await bus.streams.consume("prompts", "generator-0", count=1, block_s=0)
        with pytest.raises(BusError, match="no run 'test-run'"):
            await bus.runs.spec()
        await issue(bus, 1)
        assert len(await bus.streams.consume("prompts", "generator-0", count=1, block_s=0)) == 1

    drive(valkey.url, scenario)


def test_how_the_embedded_server_ended_can_be_asked(tmp_path: Path) -> None:
    server = EmbeddedValkey(tmp_path, memory_mib=16)
    assert server.failure() is None
    with server:
        assert server.failure() is None
        assert server.pid is not None
        psutil.Process(server.pid).kill()
        failure = server.failure()
    assert failure is not None
    assert failure.startswith(f"the embedded Valkey was ended by signal 9\nend of {server.log}:\n")
    assert "Ready to accept connections" in failure


def test_a_short_outage_is_survived(tmp_path: Path) -> None:
    async def scenario(bus: Bus) -> None:
        await issue(bus, 3)
        await bus.control_server.client.connection_pool.disconnect()
        await bus.control_server.client.client_kill_filter(_type="normal", skipme=True)
        assert await bus.groups.issued_total() == 3

    with EmbeddedValkey(tmp_path, memory_mib=16) as server:
        drive(server.url, scenario)


def test_a_server_that_dies_is_unavailable_not_a_crash(tmp_path: Path) -> None:
    async def scenario(bus: Bus) -> None:
        waiting = asyncio.create_task(bus.streams.consume("prompts", "generator-0", count=1, block_s=60))
        await asyncio.sleep(0.2)
        server.kill()
        with pytest.raises(BusUnavailable, match=r"No Redis at redis://127\.0\.0\.1"):
            await waiting
        with pytest.raises(BusUnavailable):
            await bus.groups.write_completions([make_completion(bus, group_id(0), 0)])

    server = EmbeddedValkey(tmp_path, memory_mib=16)
    with server:
        drive(server.url, scenario)


def test_the_embedded_server_ends_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from dapo.bus.server.embedded import EmbeddedValkey;"
        "print(EmbeddedValkey(Path(sys.argv[1]), 16).start().pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        server = psutil.Process(int(parent.stdout.readline()))
        assert server.name() == "valkey-server"
        parent.kill()
    server.wait(timeout=30)


def test_an_embedded_server_that_cannot_start_shows_its_log(tmp_path: Path) -> None:
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / "appendonlydir" / "appendonly.aof.manifest").write_text("nonsense\n")
    with pytest.raises(BusUnavailable, match=r"did not start\. Its log ends:[\s\S]*(?i:manifest)"):
        EmbeddedValkey(tmp_path, memory_mib=16).start()
