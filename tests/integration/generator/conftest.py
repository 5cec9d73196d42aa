"""What the tests of a generator beside a simulated engine share."""

from pathlib import Path

import pytest

from dapo.bus.server.embedded import EmbeddedValkey
from tests.support.generator.kit import make_spec
from tests.support.generator.runs import GROUP_SIZE
from tests.support.models import save_model


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, 0)
    return directory


@pytest.fixture
def redis_url(valkey: EmbeddedValkey) -> str:
    return valkey.url


@pytest.fixture
def spec(model_path: Path):
    return make_spec(model_path, sampling={"group_size": GROUP_SIZE, "max_response_tokens": 64})
