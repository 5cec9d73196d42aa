"""Signs of life in streams, so that those who follow one know that somebody is there."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TypeVar

T = TypeVar("T")

SIGN_S = 10.0
"""Whoever follows a stream hears something at least so often."""


async def with_signs(stream: AsyncIterator[T], sign: T, every_s: float = SIGN_S) -> AsyncGenerator[T, None]:
    """What `stream` gives, and `sign` whenever that was nothing for `every_s`."""
    waiting: asyncio.Future[T] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(stream))
            await asyncio.wait({waiting}, timeout=every_s)
            if not waiting.done():
                yield sign
                continue
            try:
                found = waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
            yield found
    finally:
        if waiting is not None:
            waiting.cancel()
