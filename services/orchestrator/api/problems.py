"""Errors of REST as problem details (RFC 9457)."""

from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from dapo.spec.problem import Problem
from services.orchestrator.api.errors import ERRORS, PROBLEM_JSON, describe, problem_details
from services.orchestrator.api.schemas import FieldProblem, ProblemDetails
from services.orchestrator.api.validation import field_problems
from services.orchestrator.fleet.errors import BadField
from services.orchestrator.security.access import Unauthorised
from services.orchestrator.security.limits import TooManyRequests


def answer(error: Exception, instance: str) -> JSONResponse:
    """Of an error that is in the table."""
    found = _answer(problem_details(error, instance))
    if isinstance(error, TooManyRequests):
        found.headers["Retry-After"] = str(error.retry_after_s)
    if isinstance(error, Unauthorised):
        found.headers["WWW-Authenticate"] = "Bearer"
    return found


def _answer(problem: ProblemDetails) -> JSONResponse:
    return JSONResponse(problem.model_dump(mode="json"), problem.status, media_type=PROBLEM_JSON)


def handle_errors(app: FastAPI) -> None:
    """Every error of the table, a request that does not fit its schema, and one that no route takes."""
    for kind in ERRORS:
        app.add_exception_handler(kind, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _unrouted)


async def _known(request: Request, error: Exception) -> JSONResponse:
    return answer(error, request.url.path)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = field_problems(error.errors(), request.scope.get("route"))
    detail = "\n".join(str(Problem(one.field, one.given, one.message)) for one in problems)
    return _answer(describe(ERRORS[BadField], detail, request.url.path, problems))


async def _unrouted(request: Request, error: Exception) -> JSONResponse:
    """A path that there is not, or a method that it does not take; or a body that is no text."""
    assert isinstance(error, HTTPException)
    status = HTTPStatus(error.status_code)
    if status == HTTPStatus.BAD_REQUEST:
        wrong = FieldProblem(field="body", message="is no JSON in UTF-8")
        return _answer(describe(ERRORS[BadField], "the body is no JSON in UTF-8", request.url.path, [wrong]))
    problem = ProblemDetails(
        type="about:blank",  # RFC 9457, section 4.2.1: no more than its status
        title=status.phrase,
        status=status,
        detail=f"{request.method} {request.url.path}: {error.detail}. GET /openapi.json lists what there is",
        instance=request.url.path,
    )
    found = _answer(problem)
    found.headers.update(error.headers or {})
    if status == HTTPStatus.METHOD_NOT_ALLOWED:
        found.headers["Allow"] = ", ".join(sorted(_methods(request)))  # The router names those of one route only.
    return found


def _methods(request: Request) -> set[str]:
    """Which a path takes: those of all routes of the first path that it fits."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    path = next((route.path for route in routes if route.matches(request.scope)[0] is not Match.NONE), None)
    # Files of the page have no route of their own.
    return {method for route in routes if route.path == path for method in route.methods or ()} or {"GET", "HEAD"}
