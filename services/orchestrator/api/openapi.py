"""The OpenAPI document of REST: what FastAPI tells of the routes, with tokens, errors and examples."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from services.orchestrator.api.doors.rest import GUARDED
from services.orchestrator.api.errors import ERRORS, PROBLEM_JSON
from services.orchestrator.api.examples import ANSWERS, PARAMETERS, PROBLEM, REQUESTS
from services.orchestrator.api.routes.metrics import METRICS
from services.orchestrator.api.schemas import ProblemDetails
from services.orchestrator.security.sessions import COOKIE

_REFERENCE = "#/components/schemas/{model}"
_SCHEMES = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "DAPO_API_TOKEN of the service, or one of dapo tokens.",
    },
    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "Of the web page, by POST /login."},
}
_UNREADABLE = {
    "description": "Bad Request: what came is no HTTP, or has an address longer than 64 KiB. No problem details.",
    "content": {"text/plain": {"schema": {"type": "string"}}},
}
"""By the web server, before anything of the request is known."""
_TAGS = [
    {"name": "runs", "description": "Start runs, watch them, steer them, and look into what they wrote."},
    {"name": "page", "description": "How the web page logs in."},
    {"name": "service", "description": "Whether the service is up."},
]


def document(app: FastAPI) -> dict[str, Any]:
    """Of all routes that the application has by now."""
    found = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, tags=_TAGS
    )
    components = found.setdefault("components", {})
    schemas = components.setdefault("schemas", {})
    problem = ProblemDetails.model_json_schema(ref_template=_REFERENCE)
    schemas.update(problem.pop("$defs", {}), ProblemDetails=problem)
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    components["securitySchemes"] = _SCHEMES
    for path, operation in _operations(found):
        operation["responses"].pop("422", None)
        operation["responses"].update(_errors(guarded=path.startswith(GUARDED)))
        guarded = path.startswith((GUARDED, METRICS))
        operation["security"] = [{name: []} for name in _SCHEMES] if guarded else []
        _add_examples(operation)
    return found


def _operations(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in found["paths"].items():
        for operation in methods.values():
            yield path, operation


def _errors(*, guarded: bool) -> dict[str, Any]:
    schema = {"$ref": _REFERENCE.format(model="ProblemDetails")}
    found: dict[str, Any] = {"400": _UNREADABLE}
    for code in sorted({kind.http for kind in ERRORS.values()} - (set() if guarded else {404, 409})):
        content = {"schema": schema} | ({"example": PROBLEM} if code == PROBLEM["status"] else {})
        found[str(code)] = {"description": HTTPStatus(code).phrase, "content": {PROBLEM_JSON: content}}
    found["429"]["headers"] = {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}}
    return found


def _add_examples(operation: dict[str, Any]) -> None:
    name = operation["operationId"]
    for parameter in operation.get("parameters", []):
        if parameter["name"] in PARAMETERS:
            parameter["example"] = PARAMETERS[parameter["name"]]
    if name in REQUESTS:
        operation["requestBody"]["content"]["application/json"]["example"] = REQUESTS[name]
    if name in ANSWERS:
        status = next(code for code in operation["responses"] if code.startswith("2"))
        (content,) = operation["responses"][status]["content"].values()
        content["example"] = ANSWERS[name]
