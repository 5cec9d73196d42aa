"""Requests to services that grade: deadlines, retries, a circuit breaker, and every status looked at."""

import asyncio
import json
import os
import random
import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from dapo.spec.tree.graders import JudgeGrader, RemoteGrader
from services.verifier.graders import Unbuildable
from services.verifier.remote.breaker import CircuitBreaker

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that a later try may not meet again."""
_REPLY_BYTES = 32 << 20
_TOLD = 160
"""Characters of a service's complaint that are passed on."""


class Unavailable(Exception):
    """The service cannot be reached, refuses, or is left alone for a while; says which."""


class BadReply(Exception):
    """The service answered what it must not answer; says what."""


class Endpoint:
    """One URL. Raises Unbuildable where the API key that the options name is not set."""

    def __init__(self, url: str, options: RemoteGrader | JudgeGrader) -> None:
        self._url = url
        self._options = options
        self._breaker = CircuitBreaker(time.monotonic)
        self._room = asyncio.Semaphore(options.concurrency)
        limits = httpx.Limits(max_connections=options.concurrency)
        self._client = httpx.AsyncClient(headers=_authorisation(options.api_key_env), limits=limits, timeout=None)

    async def close(self) -> None:
        await self._client.aclose()

    async def post(self, body: dict[str, Any]) -> Any:
        """The JSON that `body` is answered with. Raises Unavailable after all tries, BadReply."""
        async with self._room:
            attempt = 0
            while True:
                if not self._breaker.admits():
                    raise Unavailable(f"{self._url} failed too often and is left alone for a while")
                try:
                    return await self._try(body)
                except _Failure as failure:
                    if not failure.passing or attempt == self._options.retries:
                        raise Unavailable(f"{self._url}: {failure}") from failure
                    pause_s = failure.retry_after_s
                await asyncio.sleep(pause_s if pause_s is not None else _pause_s(attempt))
                attempt += 1

    async def _try(self, body: dict[str, Any]) -> Any:
        """Tells the breaker. Raises _Failure, BadReply."""
        told = self._breaker.abandoned
        try:
            async with asyncio.timeout(self._options.timeout_s):
                status, headers, content = await self._exchange(body)
            if status == 200:
                told = self._breaker.succeeded
                return _read_json(content)
            if status != 429:  # too many requests are no sign of a service in trouble
                told = self._breaker.failed
            raise _Failure(
                f"status {status}: {content[:_TOLD].decode(errors='replace')}", status in _PASSING, _wait_s(headers)
            )
        except TimeoutError:
            told = self._breaker.failed
            raise _Failure(f"no answer within {self._options.timeout_s:g} s", True) from None
        except httpx.HTTPError as error:
            told = self._breaker.failed
            raise _Failure(f"{type(error).__name__}: {error}", True) from error
        finally:
            told()

    async def _exchange(self, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """Raises BadReply for an answer that does not end."""
        async with self._client.stream("POST", self._url, json=body) as reply:
            content = bytearray()
            async for chunk in reply.aiter_bytes():
                content += chunk
                if len(content) > _REPLY_BYTES:
                    raise BadReply(f"more than {_REPLY_BYTES >> 20} MiB")
            return reply.status_code, reply.headers, bytes(content)


class _Failure(Exception):
    """Of one try."""

    def __init__(self, message: str, passing: bool, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.passing = passing
        self.retry_after_s = retry_after_s


def _authorisation(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise Unbuildable(
            f"api_key_env {variable!r} is not set where the verifier runs. Set it, or leave the field out"
        )
    return {"Authorization": f"Bearer {key}"}


def _pause_s(attempt: int) -> float:
    """Doubles with each attempt; jitter keeps verifiers from coming back all at once."""
    return min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1.5)


def _wait_s(headers: httpx.Headers) -> float | None:
    """What Retry-After asks for, seconds or a date, within bounds."""
    text = headers.get("retry-after", "")
    try:
        wait_s = float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError):
        return None
    return min(max(wait_s, 0.0), _LONGEST_PAUSE_S)


def _read_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadReply(f"no JSON: {content[:_TOLD].decode(errors='replace')!r}") from error
