"""What every REST request passes before its route: its size, who asks, from which site, and how often."""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from typing import Any, get_origin

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.datastructures import Headers

from services.orchestrator.api.errors import ERRORS, TooLarge, TooSlow
from services.orchestrator.api.problems import answer
from services.orchestrator.fleet.errors import BadField
from services.orchestrator.instruments import NO_ROUTE, observe_request
from services.orchestrator.security.access import Caller, Forbidden, is_loopback
from services.orchestrator.security.guard import BODY_BYTES, Guard
from services.orchestrator.security.sessions import COOKIE

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

GUARDED = "/v1/"
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_BODY_S = 30.0
"""A body must have come by then."""
_KNOWN = tuple(ERRORS)
_PORT = re.compile(r":\d+$")


class Door:
    """ASGI middleware. Puts the caller into the request's state, and there `leaving`: what ends with the answer."""

    def __init__(self, app: App, guard: Guard, guarded: tuple[str, ...] = (GUARDED,)) -> None:
        """`guarded`: how the paths begin that want a token, where the service has any."""
        self._app = app
        self._guard = guard
        self._guarded = guarded

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        with _observed(scope, send) as send, ExitStack() as leaving:
            try:
                caller = await self._admit(scope, headers)
                body = await _read_body(headers, receive)
            except _KNOWN as error:
                await answer(error, scope["path"])(scope, receive, send)
                return
            scope.setdefault("state", {}).update(caller=caller, leaving=leaving)
            await self._app(scope, _replay(body, receive), send)

    async def _admit(self, scope: Message, headers: Headers) -> Caller | None:
        """Raises Unauthorised, Forbidden, TooManyRequests, NoAnswer."""
        address = scope["client"][0] if scope.get("client") else ""
        if not scope["path"].startswith(self._guarded):
            self._guard.admit_stranger(address)
            return None
        header, cookie = headers.get("authorization"), cookie_of(headers)
        wanted = cookie and header is None and self._guard.access.needed
        session = await self._guard.session(cookie, address) if wanted else None
        caller = self._guard.admit(header, address, session)
        if not caller.name:
            _check_host(headers)
            check_site(scope, headers)
        elif header is None:
            check_site(scope, headers, must_say=True)
        return caller


@contextmanager
def _observed(scope: Message, send: Send) -> Iterator[Send]:
    """The time until the answer begins is observed, under the name of its route; of one that fails, until it fails."""
    began, answered = time.perf_counter(), False

    def observe(status: int) -> None:
        nonlocal answered
        answered = True
        name = getattr(scope.get("route"), "name", None) or NO_ROUTE
        observe_request("rest", name, status, time.perf_counter() - began)

    async def sends(message: Message) -> None:
        if message["type"] == "http.response.start":
            observe(message["status"])
        await send(message)

    try:
        yield sends
    except Exception:
        if not answered:
            observe(HTTPStatus.INTERNAL_SERVER_ERROR)
        raise


def caller_of(request: Request) -> Caller:
    """Whom the door has let in."""
    caller: Caller = request.state.caller
    return caller


async def check_query(request: Request) -> None:
    """Raises BadField for a query parameter that the route does not have, which may be a mistyped one, and for one of
    which it would take the last of several values."""
    route: APIRoute = request.scope["route"]
    known = {one.alias: get_origin(one.field_info.annotation) is list for one in route.dependant.query_params}
    for name in request.query_params:
        if name not in known:
            near = "".join(f"Did you mean {one}? " for one in get_close_matches(name, known, n=1))
            raise BadField(
                name,
                f"is no parameter of this request. {near}There are {', '.join(known) or 'none'}",
                request.query_params[name],
            )
        if (times := len(request.query_params.getlist(name))) > 1 and not known[name]:
            raise BadField(name, f"is given {times} times. Give it once", ", ".join(request.query_params.getlist(name)))


def cookie_of(headers: Headers) -> str:
    """Of the page's session; empty where there is none."""
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found is not None else ""


def _check_host(headers: Headers) -> None:
    """Raises Forbidden: a name of another site may lead to this address (DNS rebinding)."""
    host = headers.get("host", "")
    if not is_loopback(_PORT.sub("", host)):
        raise Forbidden(f"a service without a token answers to localhost and 127.0.0.1 only, not to {host!r}")


def check_site(scope: Message, headers: Headers, *, must_say: bool = False) -> None:
    """Of a request that a page of another site could have sent. Browsers say from which; others need not, unless
    `must_say`. Raises Forbidden for a change that comes from elsewhere."""
    if scope["method"] in _READING:
        return
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None:
        own = origin == f"{scope['scheme']}://{headers.get('host', '')}"
    else:
        own = site == "same-origin" or (site is None and not must_say)
    if not own:
        raise Forbidden("a change must come from a page of the service itself (Origin), or carry a bearer token")


async def _read_body(headers: Headers, receive: Receive) -> bytes:
    """All of it. Raises TooLarge, TooSlow."""
    announced = headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > BODY_BYTES:
        raise TooLarge(f"the body has {announced} bytes, and {BODY_BYTES} may be")
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(_BODY_S):
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    break  # The client has left.
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > BODY_BYTES:
                    raise TooLarge(f"the body has more than {BODY_BYTES} bytes")
    except TimeoutError:
        raise TooSlow(f"the body has not come within {_BODY_S:g} s") from None
    return bytes(body)


def _replay(body: bytes, receive: Receive) -> Receive:
    """The body once, then what else comes: that the client leaves."""
    first = True

    async def again() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return again
