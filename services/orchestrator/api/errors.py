"""One table: what each error of the run service is called, over REST and over gRPC."""

from typing import NamedTuple

import grpc

from dapo.spec.problem import SpecError
from services.orchestrator.control.issuer import NotRequeued
from services.orchestrator.runs.questions import GroupNotFound, NoAnswer
from services.orchestrator.runs.service import BadField, RunConflict, RunNotFound, ServiceStopping


class Unauthorised(Exception):
    """The bearer token is missing or wrong."""


class ErrorKind(NamedTuple):
    code: str
    """`error.code` of a REST answer."""
    http: int
    grpc: grpc.StatusCode


ERRORS: dict[type[Exception], ErrorKind] = {
    SpecError: ErrorKind("invalid_spec", 422, grpc.StatusCode.INVALID_ARGUMENT),
    BadField: ErrorKind("invalid_request", 422, grpc.StatusCode.INVALID_ARGUMENT),
    RunNotFound: ErrorKind("not_found", 404, grpc.StatusCode.NOT_FOUND),
    GroupNotFound: ErrorKind("not_found", 404, grpc.StatusCode.NOT_FOUND),
    RunConflict: ErrorKind("conflict", 409, grpc.StatusCode.ALREADY_EXISTS),
    NotRequeued: ErrorKind("conflict", 409, grpc.StatusCode.FAILED_PRECONDITION),
    ServiceStopping: ErrorKind("stopping", 503, grpc.StatusCode.UNAVAILABLE),
    NoAnswer: ErrorKind("no_answer", 503, grpc.StatusCode.UNAVAILABLE),
    Unauthorised: ErrorKind("unauthorised", 401, grpc.StatusCode.UNAUTHENTICATED),
}


def kind_of(error: Exception) -> ErrorKind:
    """Of an error that is in the table, or derives from one that is. Raises KeyError for any other."""
    for one in type(error).__mro__:
        if one in ERRORS:
            return ERRORS[one]
    raise KeyError(type(error).__name__)
