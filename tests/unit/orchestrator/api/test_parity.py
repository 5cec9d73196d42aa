"""REST and gRPC offer the same operations, each with a scope."""

from fastapi.routing import APIRoute

from dapo.v1 import run_pb2, run_pb2_grpc
from services.orchestrator.api.doors.grpc import operation_of
from services.orchestrator.api.grpc_api import RunServicer
from services.orchestrator.api.operations import Operations
from services.orchestrator.api.rest import create_app
from services.orchestrator.fleet.service import RunService
from services.orchestrator.security.access import SCOPES
from tests.support.orchestrator.launcher import FakeLauncher

METHODS = [method.name for method in run_pb2.DESCRIPTOR.services_by_name["RunService"].methods]
OPEN = {"healthz", "readyz", "login", "logout"}
"""They want no token. gRPC has a health service; the rest is of the web page, as what the document leaves out."""
SCRAPED = {"read_metrics", "list_metrics_targets"}
"""Prometheus asks over HTTP."""


def routes(tmp_path) -> list[APIRoute]:
    app = create_app(Operations(RunService(FakeLauncher(), state_dir=tmp_path)))
    return [route for route in app.routes if isinstance(route, APIRoute) and route.include_in_schema]


def test_every_operation_is_offered_by_both(tmp_path) -> None:
    rest = {route.name for route in routes(tmp_path)}
    assert rest >= OPEN
    assert rest - OPEN - SCRAPED == {operation_of(name) for name in METHODS}


def test_every_operation_has_a_scope_and_every_scope_is_of_one(tmp_path) -> None:
    assert {route.name for route in routes(tmp_path)} - OPEN == SCOPES.keys()


def test_every_method_is_answered() -> None:
    for name in METHODS:
        assert getattr(RunServicer, name) is not getattr(run_pb2_grpc.RunServiceServicer, name), name
