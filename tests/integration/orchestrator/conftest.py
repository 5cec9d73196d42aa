"""A run service that serves the tests of one module, and a run whose model cannot be loaded."""

import grpc
import pytest

from tests.support.orchestrator.run_service import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    running = Service(tmp_path_factory.mktemp("service"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def channel(service):
    with grpc.insecure_channel(
        f"127.0.0.1:{service.ready['grpc_port']}", [("grpc.enable_http_proxy", 0)]
    ) as open_channel:
        yield open_channel


@pytest.fixture
def spec(tmp_path) -> dict:
    """A valid spec whose model directory holds nothing that can be loaded."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "none-such"}')
    (tmp_path / "d.jsonl").write_text('{"prompt": "p", "answer": "a"}\n{"prompt": 3}\n')
    return {
        "name": "broken",
        "model": {"path": str(model)},
        "data": {"path": str(tmp_path / "d.jsonl"), "max_prompt_tokens": 8},
        "sampling": {"group_size": 4, "max_response_tokens": 8},
        "reward": {"overlong_buffer_tokens": 3},
        "training": {"steps": 2, "prompts_per_step": 4, "updates_per_step": 2},
        "resources": {"redis": {"memory_mib": 64}, "generator": {"device": "cpu"}, "learner": {"device": "cpu"}},
    }
