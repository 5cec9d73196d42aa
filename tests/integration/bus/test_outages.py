"""A Redis that goes away and comes back: what waits, how long, and what it finds."""

import asyncio
import itertools
import time
from pathlib import Path

import pytest

from dapo.bus import Bus, BusUnavailable, Outcome
from dapo.bus.errors import LeaseHeld
from dapo.bus.server import embedded
from dapo.bus.server.embedded import EmbeddedValkey
from tests.support.bus import RUN, group_id, issue, losing_deliveries, make_completion

OUTAGE_S = 1.0


async def away(server: EmbeddedValkey, seconds: float) -> None:
    server.kill()
    await asyncio.sleep(seconds)
    await asyncio.to_thread(server.start)


def test_reads_and_writes_wait_for_the_same_server_and_find_their_data(tmp_path: Path) -> None:
    async def main() -> None:
        bus = await Bus.connect(server.url, RUN, outage_s=60)
        await issue(bus, 1)
        assert await bus.streams.consume("prompts", "generator-0", count=2, block_s=0)
        waiting = asyncio.create_task(bus.streams.consume("prompts", "generator-0", count=1, block_s=30))
        following = asyncio.create_task(bus.weights.read_commands("generator-0", "0", block_s=30))
        await asyncio.sleep(0.2)
        address = server.url
        coming_back = asyncio.create_task(away(server, OUTAGE_S))
        await asyncio.sleep(0.1)
        written = bus.groups.write_completions([make_completion(bus, group_id(0), 0)])
        assert await written == [Outcome.WRITTEN]
        assert server.url == address
        assert await waiting == []
        assert await following == []
        await coming_back
        await asyncio.sleep(0.6)
        await bus.groups.issued_total()
        assert bus.last_outage is not None
        assert bus.last_outage.number == 1
        assert bus.last_outage.lasted_s >= OUTAGE_S / 2
        assert await bus.groups.issued_total() == 1
        await bus.close()

    with EmbeddedValkey(tmp_path, memory_mib=16) as server:
        asyncio.run(main())


def test_after_an_outage_nobody_is_taken_for_dead_before_it_could_be_heard(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dapo.bus.parts.streams.HEARTBEAT_TTL_S", 2.0)

    async def main() -> None:
        slow = await Bus.connect(server.url, RUN, instance="process0", outage_s=60)
        other = await Bus.connect(server.url, RUN, instance="process1", outage_s=60)
        await issue(slow, 1)
        assert len(await slow.streams.consume("prompts", "generator-0", count=1, block_s=0)) == 1
        assert await other.streams.consume("prompts", "generator-1", count=1, block_s=0) == []
        await slow.control_server.client.delete(slow.keys.heartbeat("generator", "generator-0"))
        coming_back = asyncio.create_task(away(server, 0.2))
        await asyncio.sleep(0.1)
        assert await other.streams.claim_dead("prompts", "generator", "generator-1", count=1) == []
        await coming_back
        assert await other.streams.claim_dead("prompts", "generator", "generator-1", count=1) == []
        await slow.registry.beat("generator", "generator-0")
        await asyncio.sleep(2.1)
        assert await other.streams.claim_dead("prompts", "generator", "generator-1", count=1) == []
        await slow.close()
        await other.close()

    with EmbeddedValkey(tmp_path, memory_mib=16) as server:
        asyncio.run(main())


def test_a_second_cut_while_lost_deliveries_are_fetched_again_is_waited_for_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dapo.bus.parts.streams.BLOCK_SLICE_S", 0.2)

    async def main() -> None:
        bus = await Bus.connect(server.url, RUN, outage_s=60)
        await issue(bus, 1)
        with losing_deliveries(bus):
            assert await bus.streams.consume("prompts", "generator-0", count=1, block_s=0) == []
        await asyncio.sleep(0.3)
        coming_back = asyncio.create_task(away(server, 1.0))
        await asyncio.sleep(0.1)
        assert await bus.streams.consume("prompts", "generator-0", count=1, block_s=0) == []
        await coming_back
        await asyncio.sleep(0.3)
        (found,) = await bus.streams.consume("prompts", "generator-0", count=1, block_s=0)
        assert (found.data.decode(), found.attempt) == (group_id(0), 2)
        await bus.close()

    with EmbeddedValkey(tmp_path, memory_mib=16) as server:
        asyncio.run(main())


@pytest.mark.parametrize("call", ["issued_total", "consume", "read_commands", "claim_dead"])
def test_an_outage_that_outlasts_its_limit_is_told_with_the_limit(tmp_path: Path, call: str) -> None:
    async def main() -> None:
        bus = await Bus.connect(server.url, RUN, outage_s=OUTAGE_S)
        await issue(bus, 1)
        await bus.streams.consume("prompts", "generator-0", count=1, block_s=0)
        calls = {
            "issued_total": bus.groups.issued_total,
            "consume": lambda: bus.streams.consume("prompts", "generator-0", count=1, block_s=0),
            "read_commands": lambda: bus.weights.read_commands("generator-0", "0", block_s=10),
            "claim_dead": lambda: bus.streams.claim_dead("prompts", "generator", "generator-0", count=1),
        }
        server.kill()
        began = time.monotonic()
        with pytest.raises(BusUnavailable, match=r"resources\.redis\.outage_s = 1 s"):
            await calls[call]()
        assert time.monotonic() - began >= OUTAGE_S
        await bus.close()

    with EmbeddedValkey(tmp_path, memory_mib=16) as server:
        asyncio.run(main())


def test_a_folder_is_one_servers_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the one before is still ending, as after its service was killed."""
    monkeypatch.setattr(embedded, "_STOP_S", 0.5)
    with EmbeddedValkey(tmp_path, 64) as first:
        with pytest.raises(BusUnavailable, match=f"Another embedded Valkey has {tmp_path}: end it first"):
            EmbeddedValkey(tmp_path, 64).start()
        assert first.failure() is None
        first.kill()
        with EmbeddedValkey(tmp_path, 64) as second:
            assert second.failure() is None


def test_a_connection_that_goes_silent_costs_neither_a_heartbeat_nor_a_lease(valkey: EmbeddedValkey) -> None:
    """As behind a firewall that has forgotten it: nothing comes through, and nothing is refused."""
    ttl_s = 4.0

    async def main() -> None:
        port = int(valkey.url.rpartition(":")[2].partition("/")[0])
        silent: set[int] = set()
        count = itertools.count()

        async def pass_on(client: asyncio.StreamReader, answers: asyncio.StreamWriter) -> None:
            number = next(count)
            server, asked = await asyncio.open_connection("127.0.0.1", port)

            async def pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
                while data := await source.read(65536):
                    if number not in silent:
                        target.write(data)
                target.close()

            await asyncio.gather(pump(client, asked), pump(server, answers), return_exceptions=True)

        proxy = await asyncio.start_server(pass_on, "127.0.0.1", 0)
        through = proxy.sockets[0].getsockname()[1]
        leader = await Bus.connect(f"redis://127.0.0.1:{through}/0", RUN, instance="process0", outage_s=60)
        other = await Bus.connect(valkey.url, RUN, instance="process1")
        epoch = await leader.lease.take("first", ttl_s)
        await leader.registry.beat("generator", "generator-0", ttl_s)
        silent.update(range(next(count)))
        await leader.registry.beat("generator", "generator-0", ttl_s)
        silent.update(range(next(count)))
        await leader.lease.renew("first", epoch, ttl_s)
        assert await other.registry.alive("generator", ["generator-0"]) == {"generator-0"}
        with pytest.raises(LeaseHeld):
            await other.lease.take("second", ttl_s)
        await leader.close()
        await other.close()
        proxy.close()

    asyncio.run(asyncio.wait_for(main(), 60))
