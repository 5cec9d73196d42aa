"""Sessions of the web page: a cookie that stands for a token, without holding it.

The cookie is 256 random bits. What is kept of it is its digest and which token it stands for, tied to both by a MAC:
who reads the store can neither make a cookie nor turn one over to another token. A session ends after its lifetime, at
the logout, and with its token.
"""

import hashlib
import hmac
import json
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

from dapo.tokens import Token, digest
from services.orchestrator.runs.questions import answering

COOKIE = "dapo_session"
LIFETIME_S = 12 * 3600
_BYTES = 32
_MOST = 10_000
"""Sessions that a process without a Redis remembers; the oldest is forgotten first."""


class SessionStore(Protocol):
    """Where sessions are kept. All methods raise BusError."""

    async def put(self, key: str, text: str, lifetime_s: int) -> None: ...

    async def get(self, key: str) -> str | None:
        """None where there is none, or none any more."""

    async def remove(self, key: str) -> None: ...


class ProcessStore:
    """Implements SessionStore for one process without a Redis. Restart: nothing is kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, tuple[str, float]] = OrderedDict()

    async def put(self, key: str, text: str, lifetime_s: int) -> None:
        self._kept[key] = (text, self._clock() + lifetime_s)
        if len(self._kept) > _MOST:
            self._kept.popitem(last=False)

    async def get(self, key: str) -> str | None:
        text, ends_s = self._kept.get(key, (None, 0.0))
        return text if self._clock() < ends_s else None

    async def remove(self, key: str) -> None:
        self._kept.pop(key, None)


class Sessions:
    """All methods raise NoAnswer where the store is silent."""

    def __init__(self, store: SessionStore | None = None) -> None:
        """None: one of this process alone."""
        self._store = store or ProcessStore()

    async def begin(self, token: Token) -> str:
        """Value of the cookie."""
        cookie = secrets.token_urlsafe(_BYTES)
        text = json.dumps([token.name, _tie(cookie, token)])
        async with answering():
            await self._store.put(digest(cookie), text, LIFETIME_S)
        return cookie

    async def find(self, cookie: str, named: Callable[[str], Token | None]) -> Token | None:
        """The token that it stands for; None where it stands for none, or that has gone. `named` knows the tokens."""
        async with answering():
            text = await self._store.get(digest(cookie))
        if text is None:
            return None
        name, tie = json.loads(text)
        token = named(name)
        return token if token is not None and hmac.compare_digest(tie, _tie(cookie, token)) else None

    async def end(self, cookie: str) -> None:
        async with answering():
            await self._store.remove(digest(cookie))


def _tie(cookie: str, token: Token) -> str:
    """To just this token: one of the same name that is made later has another hash."""
    return hmac.new(cookie.encode(), f"{token.name}.{token.sha256}".encode(), hashlib.sha256).hexdigest()
