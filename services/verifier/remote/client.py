"""HTTP requests to remote graders, with deadlines, retries and a circuit breaker."""

import asyncio
import json
import os
import random
import time
from email.utils import parsedate_to_datetime
from typing import Any

import httpx

from dapo.host.proxies import BadProxy, proxy_for
from dapo.redaction import redact_url
from dapo.spec.tree.graders import LONGEST_RETRY_PAUSE_S, HttpGrader
from services.verifier.graders import GraderSetupError
from services.verifier.remote.circuit_breaker import CircuitBreaker

_FIRST_PAUSE_S = 0.5
_TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses of failures that may pass, so the request is tried again."""
_MAX_REPLY_BYTES = 32 << 20
_QUOTED = 160
"""Of an unexpected reply, so much is quoted in the error."""


class Unavailable(Exception):
    """The service cannot be reached, refuses, or its circuit breaker is open. The message says which."""


class BadReply(Exception):
    """The service's answer is malformed. The message says how."""


class ServiceClient:
    """Client of one URL: at most `concurrency` requests at a time, each tried up to 1 + `retries` times.

    A try has `timeout_s`. Pauses between tries double from 0.5 s, with jitter, or follow Retry-After; at most 30 s.
    The proxy is that of `dapo/host/proxies.py`. Raises GraderSetupError if the URL or the variable of its proxy is
    malformed, or the variable `api_key_env` is not set.
    """

    def __init__(self, url: str, options: HttpGrader) -> None:
        self._shown = redact_url(url)
        try:
            self._url = httpx.URL(url)
        except httpx.InvalidURL:  # Its text may quote a password that stands where the port should.
            raise GraderSetupError(f"{self._shown!r} is no URL. Write http://host:port/path") from None
        self._options = options
        self._breaker = CircuitBreaker(time.monotonic)
        self._slots = asyncio.Semaphore(options.concurrency)
        headers = _authorisation(options.api_key_env)
        self._client = httpx.AsyncClient(
            headers=headers, transport=_transport(url, self._shown, options.concurrency), timeout=None
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def post(self, body: dict[str, Any]) -> Any:
        """POST `body` as JSON. Returns the JSON of the answer. Raises Unavailable after all tries, BadReply."""
        async with self._slots:
            attempt = 0
            while True:
                if not self._breaker.admits():
                    raise Unavailable(f"{self._shown} failed too often and is left alone for a while")
                try:
                    return await self._try(body)
                except _RequestFailed as failure:
                    if not failure.transient or attempt == self._options.retries:
                        raise Unavailable(f"{self._shown}: {failure}") from failure
                    pause_s = failure.retry_after_s
                await asyncio.sleep(pause_s if pause_s is not None else _pause_s(attempt))
                attempt += 1

    async def _try(self, body: dict[str, Any]) -> Any:
        """One try; its outcome goes to the circuit breaker. Raises _RequestFailed, BadReply."""
        outcome = self._breaker.abandoned
        try:
            async with asyncio.timeout(self._options.timeout_s):
                status, headers, content = await self._exchange(body)
            if status == 200:
                outcome = self._breaker.succeeded
                return _read_json(content)
            if status != 429:  # "too many requests" is no failure of the service
                outcome = self._breaker.failed
            raise _RequestFailed(
                f"status {status}: {content[:_QUOTED].decode(errors='replace')}",
                status in _TRANSIENT_STATUSES,
                _wait_s(headers),
            )
        except TimeoutError:
            outcome = self._breaker.failed
            raise _RequestFailed(f"no answer within {self._options.timeout_s:g} s", True) from None
        except httpx.HTTPError as error:
            outcome = self._breaker.failed
            raise _RequestFailed(f"{type(error).__name__}: {error}", True) from error
        finally:
            outcome()

    async def _exchange(self, body: dict[str, Any]) -> tuple[int, httpx.Headers, bytes]:
        """Status, headers, body. Raises BadReply for a body above 32 MiB."""
        async with self._client.stream("POST", self._url, json=body) as reply:
            content = bytearray()
            async for chunk in reply.aiter_bytes():
                content += chunk
                if len(content) > _MAX_REPLY_BYTES:
                    raise BadReply(f"more than {_MAX_REPLY_BYTES >> 20} MiB")
            return reply.status_code, reply.headers, bytes(content)


class _RequestFailed(Exception):
    """One try failed. `transient`: the next one may succeed."""

    def __init__(self, message: str, transient: bool, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.transient = transient
        self.retry_after_s = retry_after_s


def _transport(url: str, shown: str, connections: int) -> httpx.AsyncHTTPTransport:
    """httpx would choose the proxy itself if it was left to, and ask for loopback through it."""
    try:
        proxy = proxy_for(url)
    except BadProxy as error:
        raise GraderSetupError(f"{shown} cannot be asked: {error}") from error
    return httpx.AsyncHTTPTransport(proxy=proxy, limits=httpx.Limits(max_connections=connections))


def _authorisation(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    key = os.environ.get(variable)
    if not key:
        raise GraderSetupError(
            f"api_key_env {variable!r} is not set where the verifier runs. Set it, or leave the field out"
        )
    return {"Authorization": f"Bearer {key}"}


def _pause_s(attempt: int) -> float:
    """Doubles with each attempt, with jitter, so that verifiers do not all come back at once."""
    return min(LONGEST_RETRY_PAUSE_S, _FIRST_PAUSE_S * 2**attempt) * random.uniform(0.5, 1.5)


def _wait_s(headers: httpx.Headers) -> float | None:
    """The wait that Retry-After asks for, as seconds or a date, within [0, 30] s; None without it."""
    text = headers.get("retry-after", "")
    try:
        wait_s = float(text) if text.isdigit() else parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError):
        return None
    return min(max(wait_s, 0.0), LONGEST_RETRY_PAUSE_S)


def _read_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadReply(f"no JSON: {content[:_QUOTED].decode(errors='replace')!r}") from error
