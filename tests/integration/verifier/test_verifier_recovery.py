"""The verifier as a process of its own: its start, and what is left when it is killed."""

import asyncio
import signal

from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from tests.support.bus import drive, stream_length
from tests.support.verifier.code import descendants
from tests.support.verifier.service import (
    make_spec,
    scored,
    start_service,
    until,
    write_group,
)


def test_a_grader_that_the_spec_names_in_vain_ends_the_service(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        graders = {"mine": {"type": "python", "function": "no_such_package.module:grade"}}
        await bus.runs.create(make_spec(graders=graders).model_dump_json(), ".", "now")
        service = start_service(valkey.url, "verifier-0")
        _, error = await asyncio.to_thread(service.communicate, timeout=60)
        assert service.returncode == 1
        last = error.decode().strip().splitlines()[-1]
        assert "reward.graders.mine.function: 'no_such_package.module:grade' cannot be imported" in last
        assert "PYTHONPATH" in last

    drive(valkey.url, scenario)


def test_a_verifier_killed_while_programs_run_loses_nothing(valkey: EmbeddedValkey) -> None:
    gold = '{"tests": [{"input": "1", "output": "1"}, {"input": "2", "output": "2"}]}'
    right, wrong = b"import time\ntime.sleep(0.05)\nprint(input())", b"while True: pass"

    async def scenario(bus: Bus) -> None:
        graders = {"code": {"type": "code", "timeout_s": 1.0}}
        await bus.runs.create(make_spec(graders=graders).model_dump_json(), ".", "now")
        groups = [
            await write_group(bus, number, [right, wrong, right, right], grader="code", gold=gold)
            for number in range(12)
        ]
        first = start_service(valkey.url, "verifier-0")
        second = None
        try:
            await until(lambda: running_programs(first.pid))
            first.kill()
            first.wait()
            second = start_service(valkey.url, "verifier-1")
            await until(lambda: at_least_scored(bus, 12))
        finally:
            for service in (first, second):
                if service is not None:
                    service.terminate()
                    await asyncio.to_thread(service.wait, 30)
        entries = await bus.streams.consume("scored", "orchestrator-0", count=1000, block_s=0)
        assert sorted(one.data.decode() for one in entries) == groups
        for record in await bus.groups.read_many(groups):
            assert [grade.correct for grade in record.grades] == [True, False, True, True]
            assert "took too long" in record.grades[1].extracted

    async def running_programs(pid: int) -> bool:
        return sum("services.verifier.code.template" in one for one in descendants(pid).values()) > 2

    drive(valkey.url, scenario)


def test_what_a_killed_verifier_held_is_graded_by_another(valkey: EmbeddedValkey) -> None:
    """The first one takes the completions and is killed before it acknowledges any; its heartbeat then expires."""

    async def scenario(bus: Bus, dying: Bus) -> None:
        await bus.runs.create(make_spec().model_dump_json(), ".", "now")
        groups = [await write_group(bus, number, [b"good", b"bad"]) for number in range(3)]
        await dying.registry.beat("verifier", "verifier-0", ttl_s=1.0)
        held = await dying.streams.consume("completions", "verifier-0", count=5, block_s=1)
        assert len(held) == 5
        service = start_service(valkey.url, "verifier-1")
        try:
            deliveries = await scored(bus, 3)
        finally:
            service.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(service.wait, 30)
        assert code == 0, service.stderr and service.stderr.read().decode()
        assert sorted(one.data.decode() for one in deliveries) == groups
        for record in await bus.groups.read_many(groups):
            assert [grade.correct for grade in record.grades] == [True, False]
        assert await stream_length(bus, "completions") == 0

    drive(valkey.url, scenario, buses=2)


def test_a_verifier_killed_in_the_middle_loses_nothing(valkey: EmbeddedValkey) -> None:
    async def scenario(bus: Bus) -> None:
        await bus.runs.create(make_spec().model_dump_json(), ".", "now")
        first = start_service(valkey.url, "verifier-0")
        second = start_service(valkey.url, "verifier-1")
        groups = []
        try:
            for number in range(150):
                groups.append(await write_group(bus, number, [b"good", b"bad", b"good", b"bad"]))
                if number == 75:
                    await until(lambda: at_least_scored(bus, 1))
                    first.kill()
            await until(lambda: at_least_scored(bus, 150))
        finally:
            for service in (first, second):
                service.terminate()
                await asyncio.to_thread(service.wait, 30)
        assert second.returncode == 0
        entries = await bus.streams.consume("scored", "orchestrator-0", count=1000, block_s=0)
        assert sorted(one.data.decode() for one in entries) == groups, "each group announced exactly once"
        assert await stream_length(bus, "completions") == 0

    drive(valkey.url, scenario)


async def at_least_scored(bus: Bus, count: int) -> bool:
    return (await bus.groups.ledger())["scored"] >= count


def test_a_service_without_its_run_says_so(valkey: EmbeddedValkey) -> None:
    service = start_service(valkey.url, "verifier-0")
    _, error = service.communicate(timeout=60)
    assert service.returncode == 1
    last = error.decode().strip().splitlines()[-1]
    assert "no run 'test-run'" in last
    assert "DAPO_RUN_ID" in last
