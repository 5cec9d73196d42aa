"""The run service as REST under /v1/runs, with OpenAPI at /docs and events as server-sent events."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Query, Request, status
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse

import dapo
from dapo.records.explanations import GroupExplanation
from dapo.spec.problem import SpecError
from services.orchestrator.api.access import is_authorised
from services.orchestrator.api.errors import ERRORS, ErrorKind, Unauthorised, kind_of
from services.orchestrator.api.schemas import (
    CreateRun,
    DeadLetterList,
    ErrorBody,
    ErrorDetail,
    FieldProblem,
    Requeued,
    ResumeRun,
    RunList,
    RunView,
    ScaleRun,
    view,
)
from services.orchestrator.runs.events import WatchedEvent
from services.orchestrator.runs.service import BadField, RunService

_KEEP_ALIVE_S = 10.0
"""A watcher hears something at least so often."""


def _error(kind: ErrorKind, message: str, problems: Sequence[FieldProblem] = ()) -> JSONResponse:
    body = ErrorBody(error=ErrorDetail(code=kind.code, message=message, problems=list(problems)))
    response = JSONResponse(body.model_dump(mode="json"), kind.http)
    if kind.http == status.HTTP_401_UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = "Bearer"
    return response


async def _encode(events: AsyncIterator[WatchedEvent]) -> AsyncIterator[bytes]:
    """With a comment whenever nothing has happened for a while, so that a watcher knows that somebody is there."""
    waiting: asyncio.Future[WatchedEvent] | None = None
    try:
        while True:
            waiting = waiting or asyncio.ensure_future(anext(events))
            await asyncio.wait({waiting}, timeout=_KEEP_ALIVE_S)
            if not waiting.done():
                yield b": nothing new\n\n"
                continue
            try:
                event = waiting.result()
            except StopAsyncIteration:
                return
            waiting = None
            yield f"id: {event.id}\nevent: {event.event.kind}\ndata: {json.dumps(event.event.data())}\n\n".encode()
    finally:
        if waiting is not None:
            waiting.cancel()


def create_app(service: RunService, token: str | None) -> FastAPI:
    """The application; with a token every route under /v1 wants it."""

    async def authorise(authorization: Annotated[str | None, Header()] = None) -> None:
        if not is_authorised(authorization, token):
            raise Unauthorised("send the service's token as 'Authorization: Bearer <token>'")

    statuses = sorted({kind.http for kind in ERRORS.values()})
    documented: dict[int | str, dict[str, Any]] = {code: {"model": ErrorBody} for code in statuses}
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

    @app.post("/v1/runs/resume", **guarded)
    async def resume_run(body: ResumeRun) -> RunView:
        """Go on with a run that has ended, perhaps with a changed spec."""
        return view(await service.resume(body.id, body.run_dir, body.set))

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
        """Have a checkpoint written (checkpoint.on_stop_s) and end the run's processes; answers once they are gone."""
        return view(await service.stop(run_id))

    @app.post("/v1/runs/{run_id}/scale", **guarded)
    async def scale_run(run_id: str, body: ScaleRun) -> RunView:
        """Have so many generators or verifiers: more join beside the training, those that leave hand back work."""
        return view(await service.scale(run_id, generators=body.generators, verifiers=body.verifiers))

    @app.post("/v1/runs/{run_id}/purge", status_code=status.HTTP_204_NO_CONTENT, **guarded)
    async def purge_run(run_id: str) -> None:
        """Delete what a run that has ended holds in Redis; it can go on from a checkpoint only."""
        await service.purge(run_id)

    @app.get("/v1/runs/{run_id}/events", response_class=StreamingResponse, **guarded)
    async def watch_run(run_id: str, after: Annotated[str, Query()] = "") -> StreamingResponse:
        """Events (state, step, service, alert, evaluation) after the id `after`, then live, until the run ends."""
        events = await service.watch(run_id, after)
        return StreamingResponse(_encode(events), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})

    _answer_questions(app, service, guarded)
    _handle_errors(app)
    return app


def _answer_questions(app: FastAPI, service: RunService, guarded: dict[str, Any]) -> None:
    @app.get("/v1/runs/{run_id}/groups/{group_id}", **guarded)
    async def explain_group(run_id: str, group_id: str) -> GroupExplanation:
        """What is known of a group: where it is, who holds it, what became of it and why."""
        return await service.explain(run_id, group_id)

    @app.get("/v1/runs/{run_id}/dead-letters", **guarded)
    async def list_dead_letters(run_id: str, count: Annotated[int, Query(ge=1, le=10_000)] = 100) -> DeadLetterList:
        """What was taken out of circulation, the newest first."""
        return DeadLetterList(letters=list(await service.dead_letters(run_id, count)))

    @app.post("/v1/runs/{run_id}/groups/{group_id}/requeue", status_code=status.HTTP_202_ACCEPTED, **guarded)
    async def requeue_group(run_id: str, group_id: str) -> Requeued:
        """Have the prompt of a failed group issued once more, as a new group; the failed one stays failed."""
        await service.requeue(run_id, group_id)
        return Requeued(group=group_id)


def _handle_errors(app: FastAPI) -> None:
    async def known(_: Request, error: Exception) -> JSONResponse:
        problems: list[FieldProblem] = []
        if isinstance(error, SpecError):
            problems = [FieldProblem.model_validate(one, from_attributes=True) for one in error.problems]
        elif isinstance(error, BadField):
            problems = [FieldProblem(field=error.field, message=str(error))]
        return _error(kind_of(error), str(error), problems)

    for error_type in ERRORS:
        app.add_exception_handler(error_type, known)

    @app.exception_handler(RequestValidationError)
    async def invalid_request(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = [
            FieldProblem(field=".".join(str(part) for part in item["loc"]), message=item["msg"])
            for item in error.errors()
        ]
        return _error(ERRORS[BadField], "; ".join(f"{p.field}: {p.message}" for p in problems), problems)
