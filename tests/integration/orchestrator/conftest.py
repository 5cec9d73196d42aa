"""A run service that serves the tests of one module, and a run whose model cannot be loaded."""

import json

import grpc
import pytest

from dapo.records.identity import RunIdentity, write_identity
from tests.support.orchestrator.run_service import Service
from tests.support.samples import sample

ROWS = [
    {"step": step, "accuracy_mean": step / 10, "step_s": 2.0, "learner_wait_s": 0.5, "train_s": 1.5}
    for step in range(1, 6)
]


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


@pytest.fixture(scope="module")
def recorded(service) -> str:
    """Path of a run that has ended, of which its folder alone tells."""
    folder = service.folder / "runs" / "recorded"
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text("model: {path: ./m}\ndata: {path: d.jsonl}\n")
    write_identity(folder, RunIdentity("recorded", "2026-01-01T00:00:00.000+00:00"))
    ending = {"state": "succeeded", "message": "", "steps": 5, "steps_total": 5, "ledger": {"trained": 40}}
    (folder / "summary.json").write_text(json.dumps(ending))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    samples = [sample(step, step, prompt=f"Add {step}.") for step in range(5)]
    (folder / "samples.jsonl").write_text("".join(one.model_dump_json() + "\n" for one in samples))
    (folder / "evaluations.jsonl").write_text('{"step": 5, "set": "aime", "samples": 4, "avg_at_k": null}\n')
    return "/v1/runs/recorded"
