"""`python -m services.orchestrator.api > docs/openapi.json`: the OpenAPI document; `make proto` writes it anew."""

import json
import sys
from pathlib import Path

from services.orchestrator.api.openapi import document
from services.orchestrator.api.operations import Operations
from services.orchestrator.api.rest import create_app
from services.orchestrator.fleet.service import RunService
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.launch.local import LocalLauncher


def render() -> str:
    """As it is checked in."""
    service = RunService(LocalLauncher(DeviceAllocator([])), state_dir=Path())
    return json.dumps(document(create_app(Operations(service))), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(render())
