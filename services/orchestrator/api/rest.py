"""The run service as REST under /v1/runs, with OpenAPI at /docs and events as server-sent events."""

from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Header, Path, Query, Request, Response, status
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRoute

import dapo
from dapo.records.explanations import GroupExplanation
from services.orchestrator.api.doors.rest import GUARDED, Door, caller_of, check_query
from services.orchestrator.api.openapi import document
from services.orchestrator.api.operations import Operations
from services.orchestrator.api.problems import handle_errors
from services.orchestrator.api.routes.exports import add_exports
from services.orchestrator.api.routes.files import add_files
from services.orchestrator.api.routes.login import add_login
from services.orchestrator.api.routes.metrics import METRICS, add_metrics
from services.orchestrator.api.routes.page import add_page
from services.orchestrator.api.routes.queue import add_queue
from services.orchestrator.api.routes.reads import add_reads
from services.orchestrator.api.routes.specs import add_specs
from services.orchestrator.api.schemas import (
    CreateRun,
    DeadLetterList,
    Requeued,
    ResumeRun,
    RunList,
    RunView,
    State,
    UpdateRun,
)
from services.orchestrator.api.signs import with_signs
from services.orchestrator.api.views import spec_text, state_of, view
from services.orchestrator.catalogue.listing import LIMIT, MOST, Wanted, label_filter
from services.orchestrator.records.remarks import Edit, Remarks
from services.orchestrator.runs.events import WatchedEvent
from services.orchestrator.security.access import SCOPES

_KEY = "Of the caller's choice: a request that comes again with it makes no second run."
_EVENTS = "text/event-stream"
_EVENT = {
    "type": "object",
    "description": "One event; `data` is a JSON object.",
    "properties": {"id": {"type": "string"}, "event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["id", "event", "data"],
}
_GroupId = Annotated[str, Path(json_schema_extra={"pattern": "^[ge][0-9]{10}$"}, description="E.g. g0000000012.")]
_SIGN = b": nothing new\n\n"
"""A comment: no event."""


async def _encode(events: AsyncIterator[WatchedEvent]) -> AsyncIterator[bytes]:
    async for event in events:
        yield f"id: {event.id}\nevent: {event.event.kind}\ndata: {event.event.text}\n\n".encode()


def _name(route: APIRoute) -> str:
    """An operation is called as its function: so it stands in the table of scopes, and in the OpenAPI document."""
    return route.name


def create_app(operations: Operations, *, metrics_open: bool = False) -> FastAPI:
    """The application. What is below /v1 wants a token, where the service has any, of the scope in SCOPES; /metrics
    too, unless it is `metrics_open`."""
    service, guard = operations.runs, operations.guard

    async def authorise(request: Request) -> None:
        guard.authorise(caller_of(request), request.scope["route"].name, request.path_params.get("run_id", ""))

    app = FastAPI(
        title="dapo",
        version=dapo.__version__,
        description="Runs of the dapo platform.",
        generate_unique_id_function=_name,
        # Theirs load scripts from elsewhere; routes/page.py has one of our own.
        docs_url=None,
        redoc_url=None,
    )
    guarded: dict[str, Any] = {"dependencies": [Depends(authorise), Depends(check_query)], "tags": ["runs"]}

    app.add_middleware(Door, guard=guard, guarded=(GUARDED,) if metrics_open else (GUARDED, METRICS))

    # Load balancers ask with HEAD.
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["service"])
    async def healthz() -> dict[str, str]:
        """Whether the service answers."""
        return {"status": "ok", "version": dapo.__version__}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", tags=["service"])
    async def readyz() -> dict[str, str]:
        """Whether it takes runs: it does not shut down, can write to its directory, and its Redis answers."""
        await service.check_ready()
        return {"status": "ready"}

    @app.post("/v1/runs", status_code=status.HTTP_201_CREATED, **guarded)
    async def create_run(
        body: CreateRun,
        request: Request,
        response: Response,
        idempotency_key: Annotated[str, Header(max_length=255, description=_KEY)] = "",
    ) -> RunView:
        """Start a run."""
        text, remarks = spec_text(body.spec), Remarks(body.labels, body.notes, body.priority)
        run, again = await operations.create(caller_of(request), text, body.run_dir, remarks, idempotency_key)
        if again:
            response.headers["Idempotency-Replayed"] = "true"
        return view(run)

    @app.get("/v1/runs", **guarded)
    async def list_runs(
        state: Annotated[list[State], Query(description="Only runs of these states.")] = [],  # noqa: B006
        name: Annotated[str, Query(description="Only runs whose spec has this name.")] = "",
        label: Annotated[list[str], Query(description="Only runs with these labels: key or key=value each.")] = [],  # noqa: B006
        newest_first: Annotated[bool, Query(description="Else the oldest come first.")] = False,
        limit: Annotated[int, Query(ge=1, le=MOST, description="Runs of a page.")] = LIMIT,
        cursor: Annotated[str, Query(description="`next` of the page before.")] = "",
    ) -> RunList:
        """The runs of this service and of those before it, in pages."""
        wanted = Wanted([state_of(one) for one in state], name, newest_first, label_filter(label))
        page = await operations.list(wanted, limit, cursor)
        return RunList(runs=[view(run) for run in page.runs], next=page.next or None)

    @app.get("/v1/runs/{run_id}", **guarded)
    async def get_run(run_id: str) -> RunView:
        """One run, with its ledger."""
        return view(await service.get(run_id))

    @app.patch("/v1/runs/{run_id}", **guarded)
    async def update_run(run_id: str, body: UpdateRun, request: Request) -> RunView:
        """Change what is said of a run, also of one that has ended, or how many workers it has: more join beside the
        training, those that leave hand back work. All of it is done, or nothing."""
        edit = Edit(body.labels, body.notes, body.priority)
        return view(await operations.update(caller_of(request), run_id, edit, body.generators, body.verifiers))

    @app.post("/v1/runs/{run_id}/resume", **guarded)
    async def resume_run(run_id: str, body: ResumeRun, request: Request) -> RunView:
        """Go on with a run that has ended, perhaps with a changed spec."""
        return view(await operations.resume(caller_of(request), run_id, body.set))

    @app.post("/v1/runs/{run_id}/stop", **guarded)
    async def stop_run(run_id: str, request: Request) -> RunView:
        """Have a checkpoint written (checkpoint.on_stop_s) and end the run's processes; answers once they are gone."""
        return view(await operations.stop(caller_of(request), run_id))

    @app.post("/v1/runs/{run_id}/purge", status_code=status.HTTP_204_NO_CONTENT, **guarded)
    async def purge_run(run_id: str, request: Request) -> None:
        """Delete what a run that has ended holds in Redis; it can go on from a checkpoint only."""
        await operations.purge(caller_of(request), run_id)

    @app.delete("/v1/runs/{run_id}", status_code=status.HTTP_204_NO_CONTENT, **guarded)
    async def delete_run(
        run_id: str,
        request: Request,
        checkpoints: Annotated[
            bool, Query(description="These and the spec, too; else they stay in its folder.")
        ] = False,
    ) -> None:
        """Delete a run that has ended: what it holds in Redis, and its records."""
        await operations.delete(caller_of(request), run_id, checkpoints=checkpoints)

    @app.get(
        "/v1/runs/{run_id}/events",
        response_class=StreamingResponse,
        responses={200: {"content": {_EVENTS: {"schema": _EVENT}}, "description": "Server-sent events."}},
        **guarded,
    )
    async def watch_run(
        request: Request,
        run_id: str,
        after: Annotated[str, Query(description="Id of the last event seen.")] = "",
        last_event_id: Annotated[str, Header(description="The same, as browsers send it; it goes first.")] = "",
        follow: Annotated[bool, Query(description="Then what comes, until the run ends; else what there is.")] = True,
    ) -> StreamingResponse:
        """Events (state, step, service, alert, evaluation) after the one that was seen, then live, until the run ends.
        A comment comes every ten seconds where nothing happens."""
        request.state.leaving.enter_context(guard.stream(caller_of(request)))
        events = await service.watch(run_id, last_event_id or after, follow=follow)
        return StreamingResponse(
            with_signs(_encode(events), _SIGN), media_type=_EVENTS, headers={"Cache-Control": "no-cache"}
        )

    add_specs(app, operations, guarded)
    add_files(app, operations, guarded)
    add_queue(app, operations, guarded)
    add_exports(app, operations, guarded)
    _answer_questions(app, operations, guarded)
    add_reads(app, operations.queries, guarded)
    add_metrics(app, operations.collector, {"tags": ["service"]} if metrics_open else {**guarded, "tags": ["service"]})
    add_login(app, guard, guarded)
    add_page(app)
    handle_errors(app)
    _check_scopes(app)
    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app


def _answer_questions(app: FastAPI, operations: Operations, guarded: dict[str, Any]) -> None:
    service = operations.runs

    @app.get("/v1/runs/{run_id}/groups/{group_id}", **guarded)
    async def explain_group(run_id: str, group_id: _GroupId) -> GroupExplanation:
        """What is known of a group: where it is, who holds it, what became of it and why."""
        return await service.explain(run_id, group_id)

    @app.get("/v1/runs/{run_id}/dead-letters", **guarded)
    async def list_dead_letters(run_id: str, count: Annotated[int, Query(ge=1, le=10_000)] = 100) -> DeadLetterList:
        """What was taken out of circulation, the newest first."""
        return DeadLetterList(letters=list(await service.dead_letters(run_id, count)))

    @app.post("/v1/runs/{run_id}/groups/{group_id}/requeue", status_code=status.HTTP_202_ACCEPTED, **guarded)
    async def requeue_group(run_id: str, group_id: _GroupId, request: Request) -> Requeued:
        """Have the prompt of a failed group issued once more, as a new group; the failed one stays failed."""
        await operations.requeue(caller_of(request), run_id, group_id)
        return Requeued(group=group_id)


def _check_scopes(app: FastAPI) -> None:
    """A route without a scope would be one that nobody may use."""
    for route in app.routes:
        if isinstance(route, APIRoute) and route.path.startswith((GUARDED, METRICS)) and route.name not in SCOPES:
            raise LookupError(f"{route.path} ({route.name}) has no scope in services/orchestrator/security/access.py")
