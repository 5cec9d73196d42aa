"""REST of what a run has written: logs and checkpoints."""

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.responses import StreamingResponse

from services.orchestrator.api.doors.rest import caller_of
from services.orchestrator.api.operations import Operations
from services.orchestrator.api.schemas import CheckpointList, CheckpointView, LogList
from services.orchestrator.api.signs import with_signs
from services.orchestrator.catalogue.logs import LINES, MOST_LINES

_TEXT = "text/plain; charset=utf-8"
_SIGN = "\0"
"""What no line of a log has."""


def add_files(app: FastAPI, operations: Operations, guarded: dict[str, Any]) -> None:
    @app.get("/v1/runs/{run_id}/checkpoints", **guarded)
    async def list_checkpoints(run_id: str) -> CheckpointList:
        """The checkpoints that count, the newest first."""
        found = await operations.checkpoints(run_id)
        return CheckpointList(checkpoints=[CheckpointView(**one._asdict()) for one in found])

    @app.get("/v1/runs/{run_id}/logs", **guarded)
    async def list_logs(run_id: str) -> LogList:
        """The workers that have a log."""
        return LogList(workers=list(await operations.log_names(run_id)))

    @app.get(
        "/v1/runs/{run_id}/logs/{worker}",
        response_class=StreamingResponse,
        responses={200: {"content": {_TEXT: {"schema": {"type": "string"}}}, "description": "Its lines."}},
        **guarded,
    )
    async def tail_logs(
        request: Request,
        run_id: str,
        worker: str,
        lines: Annotated[int, Query(ge=1, le=MOST_LINES, description="Of its end.")] = LINES,
        follow: Annotated[bool, Query(description="Then what comes, until the run ends.")] = False,
    ) -> StreamingResponse:
        """The end of a worker's log, as text. With `follow` a NUL comes every ten seconds where nothing else does: a
        sign of life, and no part of the log."""
        if follow:
            request.state.leaving.enter_context(operations.guard.stream(caller_of(request)))
        found = await operations.tail(run_id, worker, lines, follow=follow)
        if follow:
            found = with_signs(found, _SIGN)
        headers = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
        return StreamingResponse(found, media_type=_TEXT, headers=headers)
