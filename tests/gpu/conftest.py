"""Skips everything here where torch sees no GPU, and says what the rest was run on."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.support.nccl import nccl_version

FIGURES = "DAPO_GPU_FIGURES"
"""Environment variable: the file that measured differences are added to, one JSON object a line."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    try:
        import torch
    except ImportError:
        reason = "needs torch"
    else:
        if torch.cuda.is_available():
            return
        reason = "needs an NVIDIA GPU"
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_report_header() -> str:
    try:
        import torch
    except ImportError:
        return "GPU: torch is not installed"
    if not torch.cuda.is_available():
        return "GPU: none"
    nccl = ".".join(map(str, nccl_version()))
    return f"GPU: {torch.cuda.get_device_name()}, torch {torch.__version__}, NCCL {nccl}"


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Any:
    """Call it with numbers by name to have them kept beside the test's name."""

    def keep(**values: object) -> None:
        line = json.dumps({"test": request.node.name, **values})
        print(line)  # noqa: T201
        if path := os.environ.get(FIGURES):
            with Path(path).open("a") as file:
                file.write(line + "\n")

    return keep
