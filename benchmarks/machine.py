"""What a figure was measured on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path


def machine(*packages: str) -> dict[str, object]:
    """CPU, cores, and the versions of Python and of `packages`."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    versions = {package: version(package) for package in packages}
    return {"cpu": name, "cores": os.cpu_count(), "python": platform.python_version(), **versions}
