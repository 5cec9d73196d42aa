"""What those hear who follow a stream in which nothing happens."""

import asyncio
from collections.abc import AsyncIterator

from services.orchestrator.api.signs import with_signs


def test_a_silent_stream_gives_signs_of_life_until_something_comes() -> None:
    async def follow() -> list[str]:
        happens, heard = asyncio.Event(), []

        async def stream() -> AsyncIterator[str]:
            yield "first"
            await happens.wait()
            yield "second"

        async for one in with_signs(stream(), "sign", 0.001):
            heard.append(one)
            if heard.count("sign") == 2:
                happens.set()
        return heard

    heard = asyncio.run(follow())
    assert [one for one in heard if one != "sign"] == ["first", "second"]
    assert heard[1:3] == ["sign", "sign"]


def test_a_stream_is_closed_with_whoever_followed_it() -> None:
    async def leave() -> bool:
        closed = asyncio.Event()

        async def stream() -> AsyncIterator[str]:
            try:
                await asyncio.Event().wait()
                yield ""
            finally:
                closed.set()

        following = with_signs(stream(), "sign", 0.001)
        assert await anext(following) == "sign"
        await following.aclose()
        return await closed.wait()

    assert asyncio.run(leave())
