"""What FastAPI and pydantic find wrong with a request, in the words of this project."""

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from fastapi.routing import APIRoute

from dapo.spec.diagnosis import phrase
from dapo.spec.wording import printable, shown_given
from services.orchestrator.api.schemas import FieldProblem

_JSON = "Send a JSON object, with Content-Type: application/json"
_BRANCHES = frozenset({"str", "dict[str,any]"})
"""Pydantic's names of what a spec may be."""
_PHRASES: Mapping[str, Callable[[dict[str, Any]], str]] = {
    "json_invalid": lambda ctx: f"is no JSON ({ctx['error']}). {_JSON}",
    "model_attributes_type": lambda ctx: f"is no object. {_JSON}",
    "string_type": lambda ctx: "must be text",
    "dict_type": lambda ctx: "must be an object",
    "list_type": lambda ctx: "must be a list",
    "literal_error": lambda ctx: f"is not one of the choices: {ctx['expected']}",
    "enum": lambda ctx: f"is not one of the choices: {ctx['expected']}",
    "string_too_long": lambda ctx: f"must have at most {ctx['max_length']} characters",
}


def field_problems(errors: Sequence[dict[str, Any]], route: APIRoute | None) -> list[FieldProblem]:
    """One for each field, which goes by its own name, wherever in the request it is."""
    found: dict[str, FieldProblem] = {}
    for error in errors:
        one = _problem(error, route)
        if (before := found.get(one.field)) is not None and one.message != before.message:
            one.message = f"{before.message}, or {one.message}"
        found[one.field] = one
    return list(found.values())


def _problem(error: dict[str, Any], route: APIRoute | None) -> FieldProblem:
    kind, (place, *parts) = error["type"], error["loc"]
    if kind == "json_invalid":
        parts = []
    names = [str(part) for part in parts if part not in _BRANCHES and (place == "body" or isinstance(part, str))]
    field = printable(".".join(names)) or place
    if kind == "missing":
        return FieldProblem(field=field, message=f"is required. {_needed(names, route)}")
    given = _given(field, error["input"])
    if kind == "extra_forbidden":
        return FieldProblem(field=field, given=given, message=_unknown(names[-1], route))
    words = _PHRASES[kind](error.get("ctx", {})) if kind in _PHRASES else phrase(error)
    return FieldProblem(field=field, given=given, message=words)


def _given(field: str, value: Any) -> str | None:
    return shown_given(field, value.decode(errors="replace") if isinstance(value, bytes) else value)


def _fields(route: APIRoute | None) -> Mapping[str, Any]:
    """Of the body that a route takes."""
    body = route.body_field.field_info.annotation if route is not None and route.body_field is not None else None
    found: Mapping[str, Any] = getattr(body, "model_fields", {})
    return found


def _needed(names: Sequence[str], route: APIRoute | None) -> str:
    if not names:
        return _JSON
    field = _fields(route).get(names[0])
    return (field.description if field is not None else None) or "Give it"


def _unknown(name: str, route: APIRoute | None) -> str:
    known = list(_fields(route))
    near = "".join(f"Did you mean {one}? " for one in get_close_matches(name, known, n=1))
    return f"is no field of this request. {near}There are {', '.join(known)}"
