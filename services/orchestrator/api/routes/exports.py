"""REST of a run's checkpoints as Hugging Face folders: made on request, listed, downloaded."""

from typing import Annotated, Any

from fastapi import FastAPI, Request, status
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from dapo.records.checkpoints import ExportDtype
from services.orchestrator.api.doors.rest import caller_of
from services.orchestrator.api.operations import Operations
from services.orchestrator.catalogue.exporter import ExportRequest
from services.orchestrator.records.exports import ADAPTER, Export, ExportState

_BYTES = "application/octet-stream"
_FILE: dict[int | str, dict[str, Any]] = {
    200: {"content": {_BYTES: {"schema": {"type": "string", "format": "binary"}}}, "description": "The file."},
    206: {"description": "The part that Range names."},
    416: {"description": "The file has no such part."},
}


class ExportRun(BaseModel):
    model_config = ConfigDict(extra="forbid")

    step: Annotated[int, Field(strict=True, ge=0, le=2**53)] | None = Field(
        default=None, description="Of a checkpoint that was kept; null: the newest whole one."
    )
    dtype: ExportDtype | None = Field(default=None, description="Of the weights; null: as-base, the base model's.")
    adapter: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="The LoRA adapter alone, in PEFT's format, as it is."
    )


class ExportView(BaseModel):
    name: str
    step: int = Field(description="Finished steps of its checkpoint.")
    dtype: ExportDtype | None = Field(description="As it was asked for; null of an adapter.")
    adapter: bool
    state: ExportState
    directory: str = Field(description="On the service's machine; there once it has succeeded.")
    size: int = Field(description="Bytes of all its files.")
    files: dict[str, int] = Field(description="Bytes of each, once it has succeeded.")
    problem: str = Field(description="Why it failed; empty otherwise.")
    warning: str = Field(description="What whoever uses it should know; empty otherwise.")


class ExportList(BaseModel):
    exports: list[ExportView]


_AS_IT_IS = ExportRun()


def add_exports(app: FastAPI, operations: Operations, guarded: dict[str, Any]) -> None:
    @app.post("/v1/runs/{run_id}/export", status_code=status.HTTP_202_ACCEPTED, **guarded)
    async def export_run(run_id: str, request: Request, body: ExportRun = _AS_IT_IS) -> ExportView:
        """Have a checkpoint written as a Hugging Face folder below the run's. It goes on though the caller leaves; the
        same request again tells how far it is, and begins anew what has failed."""
        wanted = ExportRequest(body.step, body.dtype or "", body.adapter)
        return _view(await operations.export(caller_of(request), run_id, wanted))

    @app.get("/v1/runs/{run_id}/exports", **guarded)
    async def list_exports(run_id: str) -> ExportList:
        """What was asked for and what became of it, those of the newest step first."""
        return ExportList(exports=[_view(one) for one in await operations.exports(run_id)])

    @app.get(
        "/v1/runs/{run_id}/exports/{name}/files/{file:path}", response_class=FileResponse, responses=_FILE, **guarded
    )
    async def read_export_file(request: Request, run_id: str, name: str, file: str) -> FileResponse:
        """A file of an export that has succeeded; with a Range header a part of it."""
        request.state.leaving.enter_context(operations.guard.stream(caller_of(request)))
        return FileResponse(await operations.export_file(run_id, name, file), media_type=_BYTES)


def _view(export: Export) -> ExportView:
    adapter = export.form == ADAPTER
    return ExportView(
        name=export.name,
        step=export.step,
        dtype=None if adapter else ExportDtype(export.form),
        adapter=adapter,
        state=export.state,
        directory=export.directory,
        size=export.size,
        files=export.files,
        problem=export.problem,
        warning=export.warning,
    )
