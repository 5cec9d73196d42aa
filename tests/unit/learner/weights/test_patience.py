"""Waiting for one generator: time of its own, no further behind than a bound, a sign that it is gone, calls that cannot
be cancelled."""

import asyncio
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.learner.weights.dialogue import MemberFailed
from services.learner.weights.patience import (
    BUCKETS_BEHIND,
    Allowance,
    GroupCalls,
    Progress,
    laggards,
    unless_gone,
)
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


COUNT, LAG_S, NOW = 12, 10.0, 1000.0
PROGRESS = st.builds(Progress, st.integers(0, COUNT), st.none() | st.floats(NOW - 30, NOW))


@given(st.dictionaries(st.sampled_from("abcdef"), PROGRESS))
def test_only_who_stands_still_behind_another_lags(progress: dict[str, Progress]) -> None:
    for name in laggards(progress, COUNT, NOW, LAG_S):
        mine = progress[name]
        assert mine.since is not None
        assert NOW - mine.since >= LAG_S
        others = [one.sent for other, one in progress.items() if other != name]
        assert others
        assert max(others) == COUNT or max(others) - mine.sent >= BUCKETS_BEHIND


@given(st.integers(0, COUNT - 1), st.lists(st.floats(0, 500), min_size=1, max_size=6))
def test_those_that_are_slow_together_and_one_alone_are_left_in_peace(sent: int, waits: list[float]) -> None:
    progress = {str(n): Progress(sent + n % BUCKETS_BEHIND, NOW - wait) for n, wait in enumerate(waits)}
    if all(one.sent < COUNT for one in progress.values()):
        assert laggards(progress, COUNT, NOW, LAG_S) == []
    assert laggards({"alone": Progress(sent, 0.0)}, COUNT, NOW, LAG_S) == []


@pytest.mark.parametrize(
    ("sent", "since", "other", "lags"),
    [
        (0, NOW - 10, 3, True),
        (0, NOW - 9.9, 3, False),
        (0, NOW - 10, 2, False),
        (11, NOW - 10, 12, True),
        (0, None, 12, False),
    ],
)
def test_a_member_is_given_up_after_so_long_behind_so_much(
    sent: int, since: float | None, other: int, lags: bool
) -> None:
    progress = {"a": Progress(sent, since), "b": Progress(other, NOW)}
    assert laggards(progress, COUNT, NOW, LAG_S) == (["a"] if lags else [])
