"""The run service as REST under /v1/runs, with OpenAPI at /docs and events as server-sent events."""

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field

import dapo
from dapo.spec.text.problem import SpecError
from dapo.v1 import run_pb2 as pb
from services.orchestrator.api.access import is_authorised
from services.orchestrator.runs.events import Event
from services.orchestrator.runs.service import BadCursor, RunConflict, RunNotFound, RunService, ServiceStopping


class CreateRun(BaseModel):
    spec: str | dict[str, Any] = Field(description="The RunSpec: YAML or JSON text, or a JSON object.")
    run_dir: str = Field("", description="Folder of the run; empty: runs/<id> under the service's directory.")


class RunView(BaseModel):
    id: str
    state: str = Field(description="starting, running, draining, succeeded, failed or stopped.")
    run_dir: str
    message: str = Field(description="Why the run failed or stopped; empty otherwise.")
    step: int
    steps_total: int
    created_at: str
    ledger: dict[str, int] = Field(description="Ledger state to number of groups.")


class RunList(BaseModel):
    runs: list[RunView]


class Problem(BaseModel):
    field: str
    value: Any = None
    message: str


class Failure(BaseModel):
    code: str = Field(description="invalid_spec, invalid_request, not_found, conflict, stopping or unauthorised.")
    message: str
    problems: list[Problem] = []


class ErrorBody(BaseModel):
    error: Failure


class Unauthorised(Exception):
    """The bearer token is missing or wrong."""


def state_name(state: pb.RunState) -> str:
    """RUN_STATE_RUNNING -> running."""
    return pb.RunState.Name(state).removeprefix("RUN_STATE_").lower()


def view(run: pb.Run) -> RunView:
    return RunView(
        id=run.id,
        state=state_name(run.state),
        run_dir=run.run_dir,
        message=run.message,
        step=run.step,
        steps_total=run.steps_total,
        created_at=run.created_at,
        ledger=dict(run.ledger),
    )


def _error(code: int, name: str, message: str, problems: list[Problem] | None = None) -> JSONResponse:
    body = ErrorBody(error=Failure(code=name, message=message, problems=problems or []))
    return JSONResponse(body.model_dump(mode="json"), code)


async def _encode(events: AsyncIterator[Event]) -> AsyncIterator[bytes]:
    async for event in events:
        yield f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(event.data)}\n\n".encode()


def create_app(service: RunService, token: str | None) -> FastAPI:
    """The application; with a token every route under /v1 wants it."""

    async def authorise(authorization: Annotated[str | None, Header()] = None) -> None:
        if not is_authorised(authorization, token):
            raise Unauthorised

    documented: dict[int | str, dict[str, Any]] = {code: {"model": ErrorBody} for code in (401, 404, 409, 422, 503)}
    app = FastAPI(title="dapo", version=dapo.__version__, description="Runs of the dapo platform.")
    guarded: dict[str, Any] = {"dependencies": [Depends(authorise)], "responses": documented, "tags": ["runs"]}

    @app.get("/healthz", tags=["service"])
    async def healthz() -> dict[str, str]:
        """Whether the service answers."""
        return {"status": "ok", "version": dapo.__version__}

    @app.post("/v1/runs", status_code=status.HTTP_201_CREATED, **guarded)
    async def create_run(body: CreateRun) -> RunView:
        """Start a run."""
        text = body.spec if isinstance(body.spec, str) else json.dumps(body.spec)
        return view(await service.create(text, body.run_dir))

    @app.get("/v1/runs", **guarded)
    async def list_runs() -> RunList:
        """All runs of this service, oldest first."""
        return RunList(runs=[view(run) for run in await service.list()])

    @app.get("/v1/runs/{run_id}", **guarded)
    async def get_run(run_id: str) -> RunView:
        """One run, with its ledger."""
        return view(await service.get(run_id))

    @app.post("/v1/runs/{run_id}/stop", **guarded)
    async def stop_run(run_id: str) -> RunView:
        """End the run's processes within seconds; answers once they are gone."""
        return view(await service.stop(run_id))

    @app.get("/v1/runs/{run_id}/events", response_class=StreamingResponse, **guarded)
    async def watch_run(run_id: str, after: Annotated[str, Query()] = "") -> StreamingResponse:
        """Events (state, step, service, alert) after the id `after`, then live, until the run ends."""
        events = service.watch(run_id, after)
        return StreamingResponse(_encode(events), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    _handle_errors(app)
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(SpecError)
    async def invalid_spec(_: Request, error: SpecError) -> JSONResponse:
        problems = [Problem.model_validate(problem, from_attributes=True) for problem in error.problems]
        return _error(422, "invalid_spec", str(error), problems)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [
            Problem(field=".".join(str(part) for part in item["loc"]), message=item["msg"]) for item in error.errors()
        ]
        return _error(422, "invalid_request", "; ".join(f"{p.field}: {p.message}" for p in problems), problems)

    @app.exception_handler(BadCursor)
    async def bad_cursor(_: Request, error: BadCursor) -> JSONResponse:
        return _error(422, "invalid_request", str(error), [Problem(field="after", message=str(error))])

    @app.exception_handler(RunNotFound)
    async def not_found(_: Request, error: RunNotFound) -> JSONResponse:
        return _error(404, "not_found", str(error))

    @app.exception_handler(RunConflict)
    async def conflict(_: Request, error: RunConflict) -> JSONResponse:
        return _error(409, "conflict", str(error))

    @app.exception_handler(ServiceStopping)
    async def stopping(_: Request, error: ServiceStopping) -> JSONResponse:
        return _error(503, "stopping", str(error))

    @app.exception_handler(Unauthorised)
    async def unauthorised(_: Request, _error_: Unauthorised) -> JSONResponse:
        message = "send the service's token as 'Authorization: Bearer <token>'"
        response = _error(401, "unauthorised", message)
        response.headers["WWW-Authenticate"] = "Bearer"
        return response
