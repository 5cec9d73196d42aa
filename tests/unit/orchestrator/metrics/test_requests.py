"""How long requests take until they are answered is observed, with who asked for what and what came of it."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from dapo.telemetry.instruments import REGISTRY
from services.orchestrator.api.doors import grpc as grpc_door
from services.orchestrator.api.doors.rest import Door
from services.orchestrator.fleet.errors import RunNotFound
from services.orchestrator.security.guard import Guard


class Aborted(Exception):
    pass


class Context:
    def peer(self) -> str:
        return "ipv4:127.0.0.1:5000"

    async def abort(self, *what: Any) -> None:
        raise Aborted(what[0])


def observed(face: str, operation: str, outcome: str) -> float:
    labels = {"face": face, "operation": operation, "outcome": outcome}
    return REGISTRY.get_sample_value("dapo_api_request_seconds_count", labels) or 0.0


async def finds(request: Any, context: Any) -> str:
    return "found"


async def finds_none(request: Any, context: Any) -> str:
    raise RunNotFound("there is none")


async def breaks(request: Any, context: Any) -> str:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("behaviour", "outcome", "raised"),
    [(finds, "ok", None), (finds_none, "refused", Aborted), (breaks, "failed", ZeroDivisionError)],
)
def test_a_call_over_grpc_is_observed_once(behaviour: Any, outcome: str, raised: type[Exception] | None) -> None:
    door = grpc_door.Door(Guard())
    handler = grpc.unary_unary_rpc_method_handler(behaviour)
    guarded = door._guarded(handler, "/dapo.v1.RunService/GetRun", None)
    before = {one: observed("grpc", "get_run", one) for one in ("ok", "refused", "failed")}
    if raised is None:
        assert asyncio.run(guarded.unary_unary(SimpleNamespace(id="r"), Context())) == "found"
    else:
        with pytest.raises(raised):
            asyncio.run(guarded.unary_unary(SimpleNamespace(id="r"), Context()))
    gained = {one: observed("grpc", "get_run", one) - number for one, number in before.items()}
    assert gained == {**dict.fromkeys(before, 0.0), outcome: 1.0}


@pytest.mark.parametrize("events", [0, 3])
def test_a_stream_is_observed_when_it_begins_and_not_again(events: int) -> None:
    async def streams(request: Any, context: Any) -> AsyncIterator[int]:
        for number in range(events):
            yield number

    door = grpc_door.Door(Guard())
    guarded = door._guarded(grpc.unary_stream_rpc_method_handler(streams), "/dapo.v1.RunService/WatchRun", None)
    before = observed("grpc", "watch_run", "ok")

    async def main() -> list[int]:
        return [one async for one in guarded.unary_stream(SimpleNamespace(id="r"), Context())]

    assert asyncio.run(main()) == list(range(events))
    assert observed("grpc", "watch_run", "ok") == before + 1


def test_a_request_over_rest_that_breaks_is_observed_as_failed() -> None:
    async def broken(request: Any) -> None:
        raise ZeroDivisionError

    app = Starlette(routes=[Route("/broken", broken, name="broken")])
    app.add_middleware(Door, guard=Guard())
    before = observed("rest", "broken", "failed")
    assert TestClient(app, raise_server_exceptions=False).get("/broken").status_code == 500
    assert observed("rest", "broken", "failed") == before + 1
