"""REST of a service in this process: one without workers, of which requests alone are asked."""

from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from services.orchestrator.api.operations import Operations
from services.orchestrator.api.rest import create_app
from services.orchestrator.fleet.service import RunService
from tests.support.orchestrator.launcher import FakeLauncher


def rest_of(state_dir: Path, **options: Any) -> TestClient:
    """Also errors that nobody has mapped are answered, as a server does."""
    service = RunService(FakeLauncher(), state_dir=state_dir)
    app = create_app(Operations(service, state_dir=state_dir))
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False, **options)
