"""One table: what each error of the run service is called, over REST and over gRPC; and its problem details."""

from collections.abc import Iterable
from typing import NamedTuple

import grpc

from dapo.spec.problem import SpecError
from services.orchestrator.api.schemas import FieldProblem, ProblemDetails
from services.orchestrator.api.views import field_problems
from services.orchestrator.catalogue.exporter import CannotExport
from services.orchestrator.catalogue.idempotency import KeyReused
from services.orchestrator.catalogue.logs import LogNotFound
from services.orchestrator.control.issuer import NotRequeued
from services.orchestrator.fleet.errors import (
    BadField,
    FolderTaken,
    RunConflict,
    RunNotFound,
    ServiceStopping,
    StorageRefused,
)
from services.orchestrator.records.exports import ExportNotFound
from services.orchestrator.records.remarks import BadRemark
from services.orchestrator.runs.questions import FolderUnreadable, GroupNotFound, NoAnswer
from services.orchestrator.security.access import Forbidden, Unauthorised
from services.orchestrator.security.limits import TooManyRequests

PROBLEM_JSON = "application/problem+json"


class TooLarge(Exception):
    """The body of a request is."""


class TooSlow(Exception):
    """The body of a request does not come."""


class ErrorKind(NamedTuple):
    name: str
    """Last part of a problem's `type`."""
    title: str
    http: int
    grpc: grpc.StatusCode

    @property
    def type(self) -> str:
        """URI of the kind of problem (RFC 9457, section 3.1.1)."""
        return f"urn:dapo:problem:{self.name}"


_INVALID = ErrorKind("invalid_request", "The request is refused", 422, grpc.StatusCode.INVALID_ARGUMENT)
_CONFLICT = ErrorKind("conflict", "It does not fit the state of things", 409, grpc.StatusCode.FAILED_PRECONDITION)
_NOT_FOUND = ErrorKind("not_found", "There is no such thing", 404, grpc.StatusCode.NOT_FOUND)
ERRORS: dict[type[Exception], ErrorKind] = {
    SpecError: ErrorKind("invalid_spec", "The spec is refused", 422, grpc.StatusCode.INVALID_ARGUMENT),
    BadField: _INVALID,
    BadRemark: _INVALID,
    RunNotFound: _NOT_FOUND,
    GroupNotFound: _NOT_FOUND,
    LogNotFound: _NOT_FOUND,
    ExportNotFound: _NOT_FOUND,
    RunConflict: _CONFLICT,
    FolderTaken: _CONFLICT._replace(grpc=grpc.StatusCode.ALREADY_EXISTS),
    KeyReused: ErrorKind("key_reused", "The key came with another request", 409, grpc.StatusCode.ALREADY_EXISTS),
    NotRequeued: _CONFLICT,
    ServiceStopping: ErrorKind("stopping", "The service shuts down", 503, grpc.StatusCode.UNAVAILABLE),
    NoAnswer: ErrorKind("no_answer", "The run's store does not answer", 503, grpc.StatusCode.UNAVAILABLE),
    CannotExport: ErrorKind("not_installed", "This service cannot do it", 501, grpc.StatusCode.UNIMPLEMENTED),
    FolderUnreadable: ErrorKind("unreadable", "The run's folder cannot be read", 500, grpc.StatusCode.INTERNAL),
    StorageRefused: ErrorKind("storage", "The service's disk refuses it", 507, grpc.StatusCode.RESOURCE_EXHAUSTED),
    Unauthorised: ErrorKind("unauthorised", "A token is needed", 401, grpc.StatusCode.UNAUTHENTICATED),
    Forbidden: ErrorKind("forbidden", "The token does not reach so far", 403, grpc.StatusCode.PERMISSION_DENIED),
    TooManyRequests: ErrorKind("too_many_requests", "Too much at once", 429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    TooLarge: ErrorKind("too_large", "The request is too large", 413, grpc.StatusCode.RESOURCE_EXHAUSTED),
    TooSlow: ErrorKind("too_slow", "The request does not come", 408, grpc.StatusCode.DEADLINE_EXCEEDED),
}


def kind_of(error: Exception) -> ErrorKind:
    """Of an error that is in the table, or derives from one that is. Raises KeyError for any other."""
    for one in type(error).__mro__:
        if one in ERRORS:
            return ERRORS[one]
    raise KeyError(type(error).__name__)


def problem_details(error: Exception, instance: str) -> ProblemDetails:
    """What REST answers and gRPC sends beside the status. `instance`: what was asked for. KeyError as in `kind_of`."""
    return describe(kind_of(error), str(error), instance, _fields(error))


def describe(kind: ErrorKind, detail: str, instance: str, problems: Iterable[FieldProblem] = ()) -> ProblemDetails:
    return ProblemDetails(
        type=kind.type, title=kind.title, status=kind.http, detail=detail, instance=instance, problems=list(problems)
    )


def _fields(error: Exception) -> list[FieldProblem]:
    match error:
        case SpecError():
            return field_problems(error.problems)
        case BadField() | BadRemark():
            return [FieldProblem(field=error.field, given=error.given, message=error.message)]
        case _:
            return []
