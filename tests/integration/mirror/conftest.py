"""A real S3 server, and a checkpoint in a run's folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from dapo.records.mirror.store import ObjectStore, is_installed
from tests.support.store.folder import Folder
from tests.support.store.server import RUN_URL, S3, Gate, environment, moto_server, serving


@pytest.fixture(scope="session", autouse=True)
def _installed() -> None:
    if not is_installed():
        pytest.skip("obstore is not installed: pip install 'dapo[object-store]'")
    if moto_server() is None:
        pytest.skip("moto's server is not installed: make install puts it into .venv/s3")


@pytest.fixture(scope="session")
def moto(_installed: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with serving(tmp_path_factory.mktemp("moto") / "log") as server:
        yield server


@pytest.fixture
def gate(moto: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Before an empty bucket; the environment leads there."""
    moto.ask("POST", "/moto-api/reset")
    moto.make_bucket()
    gate = Gate(moto)
    for name, value in environment(gate.url).items():
        monkeypatch.setenv(name, value)
    yield gate
    gate.close()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "run")


@pytest.fixture
def store(gate: Gate) -> ObjectStore:
    return ObjectStore(RUN_URL)
