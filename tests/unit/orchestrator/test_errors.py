"""One table of errors for REST and gRPC."""

import inspect

import grpc
import pytest

from dapo.spec.problem import SpecError
from services.orchestrator.api.errors import ERRORS, kind_of
from services.orchestrator.runs import service


def test_every_error_of_the_run_service_is_in_the_table() -> None:
    own = {
        one
        for _, one in inspect.getmembers(service, inspect.isclass)
        if issubclass(one, Exception) and one.__module__ == service.__name__
    }
    assert own <= ERRORS.keys()


def test_client_errors_are_so_over_both_faces() -> None:
    for kind in ERRORS.values():
        assert 400 <= kind.http < 600
        assert (kind.http >= 500) == (kind.grpc in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL))


def test_what_derives_from_a_known_error_is_that() -> None:
    class Special(SpecError):
        pass

    assert kind_of(Special([])) == ERRORS[SpecError]
    with pytest.raises(KeyError, match="ValueError"):
        kind_of(ValueError())
