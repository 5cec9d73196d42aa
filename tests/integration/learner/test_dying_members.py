"""Members that die, stop or dawdle in the middle of a weight update: the others wait for no deadline.

Buckets are too large for the buffers of a connection, and few may wait, as under ZeRO 3. Deadlines are far longer than
the tests may take, where they are not what is tested.
"""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from dapo.bus.server.embedded import EmbeddedValkey  # noqa: E402
from tests.support.bus import read_alerts  # noqa: E402
from tests.support.learner import weight_receiver  # noqa: E402
from tests.support.learner.publishing import WAIT_S, Stage, assert_received, play  # noqa: E402
from tests.support.paths import REPO  # noqa: E402

VICTIM = "generator-9"
FAR_S = 3600.0


class ZeroStage(Stage):
    buckets: ClassVar = [torch.full((16 * 2**20,), fill, dtype=torch.uint8) for fill in range(12)]


@asynccontextmanager
async def victim(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A receiver in a process of its own, slow at each bucket."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", weight_receiver.__name__, url, VICTIM), cwd=REPO, env={**os.environ}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@asynccontextmanager
async def refreshing(stage: Stage) -> AsyncIterator[None]:
    """As the learner does, beside its steps."""

    async def repeat() -> None:
        while True:
            await stage.publisher.refresh()
            await asyncio.sleep(0.1)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def quarantined(stage: Stage) -> list[str]:
    return [alert["reason"] for alert in await read_alerts(stage.bus) if alert["kind"] == "generator_quarantined"]


async def first_quarantine(stage: Stage) -> list[str]:
    while True:
        if reasons := await quarantined(stage):
            return reasons
        await asyncio.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_member_that_dies_during_an_update_is_dropped_and_the_others_are_served(
    valkey: EmbeddedValkey, number: signal.Signals
) -> None:
    async def scenario(stage: Stage) -> None:
        async with victim(valkey.url) as process:
            await stage.joined(2)
            async with refreshing(stage), asyncio.timeout(WAIT_S):
                await stage.begin(0)
                for position, bucket in enumerate(stage.buckets):
                    await stage.feed(bucket)
                    if position == 3:
                        process.send_signal(number)
                await stage.publisher.finish(0)
            assert await stage.published() == (stage.epoch, 0)
            assert_received(stage.receivers[0], 1, stage.buckets)
            (reason,) = await quarantined(stage)
            assert ("heartbeat has stopped" in reason) or (number == signal.SIGKILL and "broadcast failed" in reason)

    far = {"update_deadline_s": FAR_S, "lag_deadline_s": FAR_S}
    play(valkey, {"generator-0": None}, scenario, kind=ZeroStage, **far)


@pytest.mark.parametrize("fault", ["hang-ready", "hang-join"])
def test_a_member_that_dies_before_it_answers_is_dropped(valkey: EmbeddedValkey, fault: str) -> None:
    """Nothing breaks off here that could tell of it: its heartbeat alone does."""

    async def scenario(stage: Stage) -> None:
        good, dying = stage.receivers
        await stage.joined(1 if fault == "hang-join" else 2)
        async with refreshing(stage), asyncio.timeout(WAIT_S):
            await stage.begin(0)
            await dying.bus.registry.beat("generator", dying.name, ttl_s=0.5)
            for bucket in stage.buckets:
                await stage.feed(bucket)
            await stage.publisher.finish(0)
            reasons = await first_quarantine(stage)
        assert reasons == [f"weight {'join' if fault == 'hang-join' else 'update'}: its heartbeat has stopped"]
        assert_received(good, 1, stage.buckets)

    play(
        valkey,
        {"generator-0": None, "generator-1": fault},
        scenario,
        update_deadline_s=FAR_S,
        join_deadline_s=12.0 if fault == "hang-join" else FAR_S,
    )


def test_an_engine_that_is_replaced_during_an_update_ends_it(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        (receiver,) = stage.receivers
        await stage.joined(1)
        async with refreshing(stage), asyncio.timeout(WAIT_S):
            await stage.begin(0)
            receiver.member.state = "starting"
            await receiver.announce()
            assert await stage.publisher.finish(0) is None
        assert await quarantined(stage) == ["weight update: its engine was lost"]

    play(valkey, {"generator-0": "hang-ready"}, scenario, update_deadline_s=FAR_S)


def test_a_slow_member_does_not_use_up_the_time_of_the_others(valkey: EmbeddedValkey) -> None:
    """It blocks the gathering of buckets until its own deadline has passed, which is as long as that of the others."""

    async def scenario(stage: Stage) -> None:
        good, slow = stage.receivers
        await stage.joined(2)
        async with refreshing(stage), asyncio.timeout(WAIT_S):
            await stage.publish(0)
        assert_received(good, 1, stage.buckets)
        assert good.member.version.step == 0
        assert [alert["worker_id"] for alert in await read_alerts(stage.bus)] == [slow.name]
        assert await quarantined(stage) == ["weight update: took longer than weight_sync.update_deadline_s = 6 s"]

    play(valkey, {"generator-0": None, "generator-1": "hang-update"}, scenario, kind=ZeroStage, update_deadline_s=6.0)


def test_a_member_that_was_stopped_and_goes_on_is_served_again(valkey: EmbeddedValkey) -> None:
    async def scenario(stage: Stage) -> None:
        async with victim(valkey.url) as process:
            await stage.joined(2)
            async with refreshing(stage), asyncio.timeout(WAIT_S):
                process.send_signal(signal.SIGSTOP)
                await stage.publish(0)
                process.send_signal(signal.SIGCONT)
                for step in itertools.count(1):
                    await stage.publish(step)
                    if "generator_back" in [alert["kind"] for alert in await read_alerts(stage.bus)]:
                        break
                    await asyncio.sleep(0.1)

    play(valkey, {"generator-0": None}, scenario, update_deadline_s=FAR_S)
