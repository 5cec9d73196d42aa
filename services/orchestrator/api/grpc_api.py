"""The run service as gRPC dapo.v1.RunService, with health checking and reflection."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dapo.v1 import run_pb2 as pb
from dapo.v1 import run_pb2_grpc
from services.orchestrator.api.access import is_authorised
from services.orchestrator.api.errors import ERRORS, Unauthorised, kind_of
from services.orchestrator.runs.service import RunService

_NAME = pb.DESCRIPTOR.services_by_name["RunService"].full_name
_KNOWN = tuple(ERRORS)
_LETTERS = 100
T = TypeVar("T")


async def _fail(context: Any, error: Exception) -> NoReturn:
    await context.abort(kind_of(error).grpc, str(error))
    raise AssertionError("abort raises")


class RunServicer(run_pb2_grpc.RunServiceServicer):
    """Turns RunService's typed errors into status codes; their text goes into the details."""

    def __init__(self, service: RunService) -> None:
        self._service = service

    async def _answer(self, call: Awaitable[T], context: Any) -> T:
        try:
            return await call
        except _KNOWN as error:
            await _fail(context, error)

    async def CreateRun(self, request: pb.CreateRunRequest, context: Any) -> pb.Run:  # noqa: N802
        return await self._answer(self._service.create(request.spec, request.run_dir), context)

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.Run:  # noqa: N802
        return await self._answer(self._service.get(request.id), context)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:  # noqa: N802
        return pb.ListRunsResponse(runs=await self._service.list())

    async def ResumeRun(self, request: pb.ResumeRunRequest, context: Any) -> pb.Run:  # noqa: N802
        return await self._answer(self._service.resume(request.id, request.run_dir, list(request.set)), context)

    async def ScaleRun(self, request: pb.ScaleRunRequest, context: Any) -> pb.Run:  # noqa: N802
        generators = request.generators if request.HasField("generators") else None
        verifiers = request.verifiers if request.HasField("verifiers") else None
        call = self._service.scale(request.id, generators=generators, verifiers=verifiers)
        return await self._answer(call, context)

    async def PurgeRun(self, request: pb.PurgeRunRequest, context: Any) -> pb.PurgeRunResponse:  # noqa: N802
        await self._answer(self._service.purge(request.id), context)
        return pb.PurgeRunResponse()

    async def StopRun(self, request: pb.StopRunRequest, context: Any) -> pb.Run:  # noqa: N802
        return await self._answer(self._service.stop(request.id), context)

    async def ExplainGroup(self, request: pb.ExplainGroupRequest, context: Any) -> pb.GroupExplanation:  # noqa: N802
        found = await self._answer(self._service.explain(request.id, request.group), context)
        return pb.GroupExplanation(group=found.group_id, state=found.state, data=found.model_dump_json())

    async def ListDeadLetters(  # noqa: N802
        self, request: pb.ListDeadLettersRequest, context: Any
    ) -> pb.ListDeadLettersResponse:
        letters = await self._answer(self._service.dead_letters(request.id, request.count or _LETTERS), context)
        return pb.ListDeadLettersResponse(letters=[pb.DeadLetter(**letter.model_dump()) for letter in letters])

    async def RequeueGroup(self, request: pb.RequeueGroupRequest, context: Any) -> pb.RequeueGroupResponse:  # noqa: N802
        await self._answer(self._service.requeue(request.id, request.group), context)
        return pb.RequeueGroupResponse()

    async def WatchRun(self, request: pb.WatchRunRequest, context: Any) -> AsyncIterator[pb.RunEvent]:  # noqa: N802
        events = await self._answer(self._service.watch(request.id, request.after), context)
        async for event in events:
            yield pb.RunEvent(id=event.id, kind=event.event.kind, data=json.dumps(event.event.data()))


class _TokenCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Wants the bearer token on every call but health checks."""

    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        header = dict(details.invocation_metadata).get("authorization")
        if details.method.startswith("/grpc.health.") or is_authorised(header, self._token):
            return await continuation(details)
        handler = await continuation(details)
        return _refuse_like(handler)


def _refuse_like(handler: Any) -> Any:
    """A handler of the same shape as `handler` that refuses the call."""
    if handler is None:
        return None

    async def refuse(_: Any, context: Any) -> None:
        await context.abort(
            ERRORS[Unauthorised].grpc, "send the service's token as metadata 'authorization: Bearer <token>'"
        )

    async def refuse_stream(request: Any, context: Any) -> AsyncIterator[Any]:
        await refuse(request, context)
        yield

    make = {
        (False, False): (grpc.unary_unary_rpc_method_handler, refuse),
        (False, True): (grpc.unary_stream_rpc_method_handler, refuse_stream),
        (True, False): (grpc.stream_unary_rpc_method_handler, refuse),
        (True, True): (grpc.stream_stream_rpc_method_handler, refuse_stream),
    }
    build, behaviour = make[handler.request_streaming, handler.response_streaming]
    return build(behaviour, handler.request_deserializer, handler.response_serializer)


async def start_grpc(service: RunService, host: str, port: int, token: str | None) -> tuple[Any, int]:
    """Start the server; returns it with its port. Raises OSError when the port cannot be bound."""
    checks_token = [_TokenCheck(token)] if token else []
    server = grpc.aio.server(interceptors=checks_token, options=[("grpc.so_reuseport", 0)])
    run_pb2_grpc.add_RunServiceServicer_to_server(RunServicer(service), server)  # type: ignore[no-untyped-call]
    checks = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    await checks.set(_NAME, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection((_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"gRPC cannot listen on {address}: {error}") from error
    await server.start()
    return server, bound
