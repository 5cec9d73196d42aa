"""What REST and gRPC ask before they do anything: who is it, may they, and not too much of it."""

import time
from contextlib import AbstractContextManager

from dapo.tokens import Scope, Token
from services.orchestrator.security.access import (
    SCOPES,
    UNKNOWN_TOKEN,
    Access,
    Caller,
    Forbidden,
    Unauthorised,
    authorise,
)
from services.orchestrator.security.audit import Audit
from services.orchestrator.security.limits import RateLimit, StreamLimit
from services.orchestrator.security.sessions import Sessions, SessionStore

REQUESTS_PER_MINUTE = 20_000
STREAMS = 1024
BODY_BYTES = 1 << 18
"""Of one request: a spec has some kilobytes, and reading YAML takes seconds a megabyte."""
_FAILURES_PER_MINUTE = 60
"""Of one address, without a token that is known; then it is told to wait."""
_LOGINS_PER_MINUTE = 60
"""Of one address: each makes a session, which is kept for hours."""


class Guard:
    """Parts: the tokens, the page's sessions, limits of rates and streams, the audit. Both faces share one.

    Restart: tokens and audit are files; sessions are where `keep_sessions` has them, else they are lost; counts begin
    anew.
    """

    def __init__(
        self,
        access: Access | None = None,
        audit: Audit | None = None,
        *,
        requests_per_minute: int = REQUESTS_PER_MINUTE,
        streams: int = STREAMS,
    ) -> None:
        """Without `access` everybody may do everything; without `audit` nothing is recorded. `requests_per_minute` of
        one caller; `streams` of all, of which one caller may have half."""
        self.access = access or Access()
        self.audit = audit or Audit(None)
        self._sessions = Sessions()
        self._requests = RateLimit(requests_per_minute)
        self._failures = RateLimit(_FAILURES_PER_MINUTE)
        self._logins = RateLimit(_LOGINS_PER_MINUTE)
        self._streams = StreamLimit(max(1, streams // 2), streams)

    def keep_sessions(self, store: SessionStore) -> None:
        """Where other instances find them, too."""
        self._sessions = Sessions(store)

    def admit(self, header: str | None, address: str, session: Token | None = None) -> Caller:
        """Whoever an Authorization header names, or the page's session, where the request has one.

        Raises Unauthorised, TooManyRequests.
        """
        try:
            caller = self.access.identify(header, address) if session is None else _caller(session, address)
        except Unauthorised:
            self._failures.take(address, time.monotonic())
            raise
        self._requests.take(_key(caller), time.monotonic())
        return caller

    def admit_stranger(self, address: str) -> None:
        """To what wants no token. Raises TooManyRequests."""
        self._requests.take(address, time.monotonic())

    def authorise(self, caller: Caller, operation: str, run: str = "") -> None:
        """Raises Forbidden; where that would have changed something, it is recorded."""
        try:
            authorise(caller, operation)
        except Forbidden:
            if SCOPES[operation] is not Scope.READ:
                self.audit.write(caller, operation, run, "forbidden", {})
            raise

    def stream(self, caller: Caller) -> AbstractContextManager[None]:
        """While it is open. Raises TooManyRequests."""
        return self._streams.one(_key(caller))

    @property
    def open_streams(self) -> int:
        return self._streams.total

    async def log_in(self, secret: str, address: str) -> tuple[Token, str]:
        """Of a token: itself, and the value of a cookie that stands for it.

        Raises Unauthorised, TooManyRequests, NoAnswer.
        """
        token = self.access.find(secret)
        if token is None:
            self._failures.take(address, time.monotonic())
            raise Unauthorised(UNKNOWN_TOKEN)
        self._logins.take(address, time.monotonic())
        return token, await self._sessions.begin(token)

    async def session(self, cookie: str, address: str) -> Token | None:
        """The token that the page's cookie stands for; None where it stands for none. Of an address that has failed too
        often none is looked up. Raises TooManyRequests, NoAnswer."""
        self._failures.check(address, time.monotonic())
        return await self._sessions.find(cookie, self.access.named)

    async def log_out(self, cookie: str) -> None:
        """Raises NoAnswer."""
        await self._sessions.end(cookie)


def _key(caller: Caller) -> str:
    return caller.name or caller.address


def _caller(token: Token, address: str) -> Caller:
    return Caller(token.name, token.scope, address)
