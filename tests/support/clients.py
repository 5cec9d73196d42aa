"""Both clients of the run API behind one way to call them, so that one test shows both."""

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Iterator
from types import TracebackType
from typing import Any, Self

from dapo.client import AsyncRunClient, RunClient

KINDS = ("waiting", "awaited")


class Awaited:
    """AsyncRunClient, each of whose methods is run to its end on a loop of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._loop = asyncio.Runner()
        self._client = AsyncRunClient(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        @functools.wraps(method)
        def call(*arguments: Any, **options: Any) -> Any:
            found = method(*arguments, **options)
            return self._loop.run(found) if inspect.iscoroutine(found) else self._each(found)

        return call

    def _each(self, found: AsyncGenerator[Any, None]) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._loop.run(anext(found))
                except StopAsyncIteration:
                    return
        finally:
            self._loop.run(found.aclose())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
        self._loop.close()


def open_client(kind: str, *arguments: Any, **options: Any) -> Any:
    return (RunClient if kind == "waiting" else Awaited)(*arguments, **options)
