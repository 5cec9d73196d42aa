"""Waiting for one generator: time of its own, a sign that it is gone, calls that cannot be cancelled."""

import asyncio
import threading

import pytest

from services.learner.weights.dialogue import MemberFailed
from services.learner.weights.patience import Allowance, GroupCalls, unless_gone
from tests.support.waiting import eventually


def test_an_allowance_is_used_up_within_running_alone() -> None:
    async def scenario() -> None:
        allowance = Allowance(0.2)
        await asyncio.sleep(0.3)
        async with allowance.running():
            await asyncio.sleep(0.01)
        assert 0 < allowance.left_s < 0.2
        with pytest.raises(TimeoutError):
            async with allowance.running():
                await asyncio.Event().wait()
        assert allowance.left_s == 0
        with pytest.raises(TimeoutError):
            async with allowance.running():
                await asyncio.sleep(1)

    asyncio.run(scenario())


def test_work_ends_with_its_generator() -> None:
    async def scenario() -> None:
        gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        ended = asyncio.Event()

        async def work() -> int:
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
            return 0

        task = asyncio.create_task(unless_gone(gone, work()))
        await asyncio.sleep(0)
        gone.set_result("it died")
        with pytest.raises(MemberFailed, match="it died"):
            await task
        await asyncio.wait_for(ended.wait(), 5)

    asyncio.run(scenario())


def test_work_for_a_generator_that_is_gone_fails_at_once() -> None:
    async def scenario() -> None:
        gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        gone.set_result("it died")

        with pytest.raises(MemberFailed):
            await unless_gone(gone, asyncio.sleep(60))

    asyncio.run(scenario())


def test_a_call_that_was_given_up_counts_until_its_thread_has_ended() -> None:
    async def scenario() -> None:
        calls, release = GroupCalls(), threading.Event()

        def call() -> None:
            release.wait(30)
            raise RuntimeError("nobody asks")

        waiting = asyncio.create_task(calls.run("a", call))
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert (calls.running("a"), calls.running("b")) == (1, 0)
        release.set()
        await eventually(lambda: calls.running("a") == 0)

    asyncio.run(scenario())
