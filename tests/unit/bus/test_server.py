"""What one server connection promises whatever the client library does."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dapo.bus.server.connection import Server


async def swallowing() -> str:
    """As asyncio.wait_for does before Python 3.12 when a cancellation comes just as the awaited call completes."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return "reply"
    raise AssertionError


async def cancel_while_it_runs(command: Callable[[], Awaitable[object]]) -> None:
    """The task that runs `command` is cancelled, and must end so."""
    server = Server("redis://127.0.0.1:6379", 0)
    task = asyncio.create_task(server.run(command))
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.close()


def test_a_cancellation_that_the_client_swallowed_is_raised_all_the_same() -> None:
    asyncio.run(cancel_while_it_runs(swallowing))


def test_a_command_that_waits_on_after_a_swallowed_cancellation_is_ended() -> None:
    async def waiting_on() -> None:
        await swallowing()
        await asyncio.Event().wait()

    asyncio.run(cancel_while_it_runs(waiting_on))


def test_a_task_that_survived_an_earlier_cancellation_goes_on() -> None:
    async def quick() -> str:
        return "reply"

    async def survivor(server: Server) -> str:
        await swallowing()
        return await server.run(quick)

    async def scenario() -> None:
        server = Server("redis://127.0.0.1:6379", 0)
        task = asyncio.create_task(survivor(server))
        await asyncio.sleep(0)
        task.cancel()
        assert await task == "reply"
        await server.close()

    asyncio.run(scenario())
