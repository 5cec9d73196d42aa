"""The run service as gRPC dapo.v1.RunService, with health checking and reflection."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from dapo.v1 import run_pb2 as pb
from dapo.v1 import run_pb2_grpc
from services.orchestrator.api.doors.grpc import Door, caller_of_call
from services.orchestrator.api.doors.tls import Tls
from services.orchestrator.api.operations import Operations
from services.orchestrator.api.servicers.reads import ReadServicer
from services.orchestrator.api.views import examination, export_message
from services.orchestrator.catalogue.exporter import ExportRequest
from services.orchestrator.catalogue.listing import LIMIT, Wanted, label_filter
from services.orchestrator.catalogue.logs import LINES
from services.orchestrator.catalogue.presets import presets, spec_schema
from services.orchestrator.records.remarks import Edit, Remarks
from services.orchestrator.security.guard import BODY_BYTES

_NAME = pb.DESCRIPTOR.services_by_name["RunService"].full_name
_LETTERS = 100
_PIECE_BYTES = 1 << 20


class RunServicer(ReadServicer):
    """RunService as messages; the door (doors/grpc.py) turns its errors into status codes."""

    def __init__(self, operations: Operations) -> None:
        super().__init__(operations.queries)
        self._operations = operations
        self._service = operations.runs

    async def CreateRun(self, request: pb.CreateRunRequest, context: Any) -> pb.Run:  # noqa: N802
        remarks = Remarks(dict(request.labels), request.notes, request.priority)
        what = (request.spec, request.run_dir, remarks, request.idempotency_key)
        run, _ = await self._operations.create(caller_of_call(), *what)
        return run

    async def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.Run:  # noqa: N802
        return await self._service.get(request.id)

    async def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:  # noqa: N802
        wanted = Wanted(request.states, request.name, request.newest_first, label_filter(request.labels))
        page = await self._operations.list(wanted, request.limit or LIMIT, request.cursor)
        return pb.ListRunsResponse(runs=page.runs, next=page.next)

    async def DeleteRun(self, request: pb.DeleteRunRequest, context: Any) -> pb.DeleteRunResponse:  # noqa: N802
        await self._operations.delete(caller_of_call(), request.id, checkpoints=request.checkpoints)
        return pb.DeleteRunResponse()

    async def ResumeRun(self, request: pb.ResumeRunRequest, context: Any) -> pb.Run:  # noqa: N802
        return await self._operations.resume(caller_of_call(), request.id, list(request.set))

    async def UpdateRun(self, request: pb.UpdateRunRequest, context: Any) -> pb.Run:  # noqa: N802
        generators = request.generators if request.HasField("generators") else None
        verifiers = request.verifiers if request.HasField("verifiers") else None
        edit = Edit(
            {**dict.fromkeys(request.remove_labels), **request.labels},
            request.notes if request.HasField("notes") else None,
            request.priority if request.HasField("priority") else None,
        )
        return await self._operations.update(caller_of_call(), request.id, edit, generators, verifiers)

    async def PurgeRun(self, request: pb.PurgeRunRequest, context: Any) -> pb.PurgeRunResponse:  # noqa: N802
        await self._operations.purge(caller_of_call(), request.id)
        return pb.PurgeRunResponse()

    async def StopRun(self, request: pb.StopRunRequest, context: Any) -> pb.Run:  # noqa: N802
        return await self._operations.stop(caller_of_call(), request.id)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> pb.Run:  # noqa: N802
        return await self._operations.cancel(caller_of_call(), request.id)

    async def GetMachine(self, request: pb.GetMachineRequest, context: Any) -> pb.Machine:  # noqa: N802
        return await self._service.look_at_machine()

    async def ExplainGroup(self, request: pb.ExplainGroupRequest, context: Any) -> pb.GroupExplanation:  # noqa: N802
        found = await self._service.explain(request.id, request.group)
        return pb.GroupExplanation(group=found.group_id, state=found.state, data=found.model_dump_json())

    async def ListDeadLetters(  # noqa: N802
        self, request: pb.ListDeadLettersRequest, context: Any
    ) -> pb.ListDeadLettersResponse:
        letters = await self._service.dead_letters(request.id, request.count or _LETTERS)
        return pb.ListDeadLettersResponse(letters=[pb.DeadLetter(**letter.model_dump()) for letter in letters])

    async def RequeueGroup(self, request: pb.RequeueGroupRequest, context: Any) -> pb.RequeueGroupResponse:  # noqa: N802
        await self._operations.requeue(caller_of_call(), request.id, request.group)
        return pb.RequeueGroupResponse()

    async def WatchRun(self, request: pb.WatchRunRequest, context: Any) -> AsyncIterator[pb.RunEvent]:  # noqa: N802
        follow = request.follow if request.HasField("follow") else True
        events = await self._service.watch(request.id, request.after, follow=follow)
        async for event in events:
            yield pb.RunEvent(id=event.id, kind=event.event.kind, data=event.event.text)

    async def ListPresets(self, request: pb.ListPresetsRequest, context: Any) -> pb.ListPresetsResponse:  # noqa: N802
        found = [
            pb.Preset(name=one["name"], description=one["description"], fields=json.dumps(one["fields"]))
            for one in presets()
        ]
        return pb.ListPresetsResponse(presets=found)

    async def GetSpecSchema(self, request: pb.GetSpecSchemaRequest, context: Any) -> pb.SpecSchema:  # noqa: N802
        return pb.SpecSchema(schema=json.dumps(spec_schema()))

    async def ValidateSpec(self, request: pb.ValidateSpecRequest, context: Any) -> pb.SpecExamination:  # noqa: N802
        found = examination(await self._operations.examine(request.spec, request.set))
        return pb.SpecExamination(
            valid=found.valid,
            problems=[pb.FieldProblem(**one.model_dump()) for one in found.problems],
            warnings=[pb.FieldProblem(**one.model_dump()) for one in found.warnings],
            yaml=found.resolved.yaml if found.resolved is not None else "",
            data=found.model_dump_json(by_alias=True),
        )

    async def ListCheckpoints(  # noqa: N802
        self, request: pb.ListCheckpointsRequest, context: Any
    ) -> pb.ListCheckpointsResponse:
        found = await self._operations.checkpoints(request.id)
        return pb.ListCheckpointsResponse(checkpoints=[pb.Checkpoint(**one._asdict()) for one in found])

    async def ExportRun(self, request: pb.ExportRunRequest, context: Any) -> pb.Export:  # noqa: N802
        step = request.step if request.HasField("step") else None
        wanted = ExportRequest(step, request.dtype, request.adapter)
        return export_message(await self._operations.export(caller_of_call(), request.id, wanted))

    async def ListExports(self, request: pb.ListExportsRequest, context: Any) -> pb.ListExportsResponse:  # noqa: N802
        found = await self._operations.exports(request.id)
        return pb.ListExportsResponse(exports=[export_message(one) for one in found])

    async def ReadExportFile(  # noqa: N802
        self, request: pb.ReadExportFileRequest, context: Any
    ) -> AsyncIterator[pb.FilePiece]:
        path = await self._operations.export_file(request.id, request.name, request.file)
        with path.open("rb") as file:
            # Beyond the end there is nothing, however far; a number that no file can have is one of those.
            file.seek(min(request.offset, path.stat().st_size))
            while data := await asyncio.to_thread(file.read, _PIECE_BYTES):
                yield pb.FilePiece(data=data)

    async def ListLogs(self, request: pb.ListLogsRequest, context: Any) -> pb.ListLogsResponse:  # noqa: N802
        return pb.ListLogsResponse(workers=await self._operations.log_names(request.id))

    async def TailLogs(self, request: pb.TailLogsRequest, context: Any) -> AsyncIterator[pb.LogLine]:  # noqa: N802
        lines = await self._operations.tail(request.id, request.worker, request.lines or LINES, follow=request.follow)
        async for line in lines:
            yield pb.LogLine(text=line.removesuffix("\n"))


async def start_grpc(operations: Operations, host: str, port: int, tls: Tls | None = None) -> tuple[Any, int]:
    """Start the server; returns it with its port. Raises OSError when the port cannot be bound."""
    options = [("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", BODY_BYTES)]
    server = grpc.aio.server(interceptors=[Door(operations.guard)], options=options)
    run_pb2_grpc.add_RunServiceServicer_to_server(RunServicer(operations), server)  # type: ignore[no-untyped-call]
    checks = health.aio.HealthServicer()  # type: ignore[attr-defined]
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    await checks.set(_NAME, health_pb2.HealthCheckResponse.SERVING)
    reflection.enable_server_reflection((_NAME, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        bound = server.add_secure_port(address, tls.grpc()) if tls is not None else server.add_insecure_port(address)
    except RuntimeError as error:
        raise OSError(f"gRPC cannot listen on {address}: {error}") from error
    await server.start()
    return server, bound
