"""One table of errors for REST and gRPC."""

import asyncio
import inspect
from http import HTTPStatus

import grpc
import pytest

from dapo.bus import BusError
from dapo.spec.problem import SpecError
from services.orchestrator.api.errors import ERRORS, kind_of
from services.orchestrator.catalogue.idempotency import KeyReused
from services.orchestrator.fleet import errors
from services.orchestrator.runs.questions import NoAnswer, answering


def test_every_error_of_the_run_service_is_in_the_table() -> None:
    own = {
        one
        for _, one in inspect.getmembers(errors, inspect.isclass)
        if issubclass(one, Exception) and one.__module__ == errors.__name__
    }
    assert own
    assert own <= ERRORS.keys()


def test_client_errors_are_so_over_both_faces() -> None:
    for kind in ERRORS.values():
        assert 400 <= kind.http < 600
        of_the_service = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNIMPLEMENTED)
        if kind.http == HTTPStatus.INSUFFICIENT_STORAGE:
            assert kind.grpc is grpc.StatusCode.RESOURCE_EXHAUSTED
        else:
            assert (kind.http >= 500) == (kind.grpc in of_the_service)


def test_what_does_not_fit_exists_already_only_where_something_does() -> None:
    exists = {error for error, kind in ERRORS.items() if kind.grpc is grpc.StatusCode.ALREADY_EXISTS}
    assert exists == {errors.FolderTaken, KeyReused}
    assert kind_of(errors.RunConflict()).grpc is grpc.StatusCode.FAILED_PRECONDITION
    assert {kind_of(error).name for error in (errors.FolderTaken(), errors.RunConflict())} == {"conflict"}


def test_what_derives_from_a_known_error_is_that() -> None:
    class Special(SpecError):
        pass

    assert kind_of(Special([])) == ERRORS[SpecError]
    with pytest.raises(KeyError, match="ValueError"):
        kind_of(ValueError())


@pytest.mark.parametrize(("error", "says"), [(TimeoutError(), "5 s passed"), (BusError("not there"), "not there")])
def test_a_redis_that_is_silent_is_told_in_words(error: Exception, says: str) -> None:
    async def ask() -> None:
        async with answering():
            raise error

    with pytest.raises(NoAnswer, match=f"^the run's Redis does not answer: {says}$"):
        asyncio.run(ask())
