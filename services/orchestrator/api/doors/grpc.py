"""What every gRPC call passes: who may call, how often, and how the run service's errors are told."""

import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from http import HTTPStatus
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc
import grpc.aio

from services.orchestrator.api.errors import ERRORS, kind_of, problem_details
from services.orchestrator.instruments import observe_request
from services.orchestrator.security.access import Caller
from services.orchestrator.security.guard import Guard

PROBLEM = "dapo-problem-bin"
"""Trailing metadata of a refused call: the problem details as REST answers them, in JSON."""
_KNOWN = tuple(ERRORS)
_OPEN = "/grpc.health."
"""Services that want no token."""
_OURS = "/dapo.v1."
_CAPITAL = re.compile(r"(?<!^)(?=[A-Z])")
_CALLER: ContextVar[Caller] = ContextVar("caller")


def caller_of_call() -> Caller:
    """Whom the door has let in, within a call."""
    return _CALLER.get()


def operation_of(method: str) -> str:
    """/dapo.v1.RunService/CreateRun is create_run."""
    return _CAPITAL.sub("_", method.rpartition("/")[2]).lower()


class Door(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Wants the token on every call but health checks, and turns typed errors into status codes."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        handler = await continuation(details)
        if handler is None or details.method.startswith(_OPEN):
            return handler
        return self._guarded(handler, details.method, dict(details.invocation_metadata).get("authorization"))

    def _admit(self, method: str, header: str | None, request: Any, context: Any) -> Caller:
        caller = self._guard.admit(header, _address(context.peer()))
        if method.startswith(_OURS):
            self._guard.authorise(caller, operation_of(method), getattr(request, "id", ""))
        _CALLER.set(caller)
        return caller

    def _guarded(self, handler: Any, method: str, header: str | None) -> Any:
        """A handler of the same shape."""
        shape = (handler.request_streaming, handler.response_streaming)
        build, behaviour = {
            (False, False): (grpc.unary_unary_rpc_method_handler, handler.unary_unary),
            (False, True): (grpc.unary_stream_rpc_method_handler, handler.unary_stream),
            (True, False): (grpc.stream_unary_rpc_method_handler, handler.stream_unary),
            (True, True): (grpc.stream_stream_rpc_method_handler, handler.stream_stream),
        }[shape]

        async def answer(request: Any, context: Any) -> Any:
            begins = _measured(method)
            try:
                self._admit(method, header, request, context)
                found = await behaviour(request, context)
            except _KNOWN as error:
                begins(kind_of(error).http)
                await _fail(context, error, method)
            except Exception:
                begins(HTTPStatus.INTERNAL_SERVER_ERROR)
                raise
            begins(HTTPStatus.OK)
            return found

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            begins = _measured(method)
            try:
                with self._guard.stream(self._admit(method, header, request, context)):
                    async for one in behaviour(request, context):
                        begins(HTTPStatus.OK)
                        yield one
                begins(HTTPStatus.OK)
            except _KNOWN as error:
                begins(kind_of(error).http)
                await _fail(context, error, method)
            except Exception:
                begins(HTTPStatus.INTERNAL_SERVER_ERROR)
                raise

        guarded = stream if handler.response_streaming else answer
        return build(guarded, handler.request_deserializer, handler.response_serializer)


def _measured(method: str) -> Callable[[int], None]:
    """Call it when the answer begins, or is refused, with the status that REST gives; only the first call counts."""
    began, open_ = time.perf_counter(), True

    def begins(status: int) -> None:
        nonlocal open_
        if open_:
            observe_request("grpc", operation_of(method), status, time.perf_counter() - began)
            open_ = False

    return begins


def _address(peer: str) -> str:
    """ipv4:127.0.0.1:5000 is 127.0.0.1, ipv6:%5B::1%5D:5000 is ::1."""
    kind, _, place = unquote(peer).partition(":")
    return place.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else peer


async def _fail(context: Any, error: Exception, method: str) -> NoReturn:
    problem = problem_details(error, method).model_dump_json().encode()
    await context.abort(kind_of(error).grpc, str(error), ((PROBLEM, problem),))
    raise AssertionError("abort raises")
