"""A live run service with a policy, and what it keeps to itself."""

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from redis import Redis

from dapo.tokens import TOKEN_FILE, Scope, add_token
from dapo.v1 import run_pb2, run_pb2_grpc
from tests.support.orchestrator.run_service import METADATA, Service, create, events, kind


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Its directory alone may be read, and two generators may be had."""
    folder = tmp_path_factory.mktemp("strict")
    (folder / "strict.yaml").write_text("limits: {resources.generator.replicas: 2, training.steps: 10}\n")
    running = Service(folder, "--policy", str(folder / "strict.yaml"))
    yield running
    running.close()


@pytest.fixture
def own(strict: Service, spec: dict) -> dict:
    """The spec with its files in the service's directory."""
    model = strict.folder / "model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text('{"model_type": "none-such"}')
    (strict.folder / "d.jsonl").write_text('{"prompt": "p", "answer": "a"}\n')
    return {**spec, "model": {"path": str(model)}, "data": {"path": str(strict.folder / "d.jsonl")}}


def fields(response) -> set[str]:
    assert kind(response) == (422, "invalid_spec")
    return {problem["field"] for problem in response.json()["problems"]}


def test_what_the_policy_does_not_allow_is_refused_over_both_faces(strict: Service, spec: dict) -> None:
    assert fields(strict.http.post("/v1/runs", json={"spec": spec})) == {"model.path", "data.path"}
    absent = {**spec, "data": {"path": "/nowhere/d.jsonl"}}
    (there, not_there) = (strict.http.post("/v1/runs", json={"spec": one}).json()["problems"] for one in (spec, absent))
    # Whether a file is there that may not be read is nobody's business.
    assert there[1]["message"] == not_there[1]["message"]
    with grpc.insecure_channel(f"127.0.0.1:{strict.ready['grpc_port']}", [("grpc.enable_http_proxy", 0)]) as channel:
        request = run_pb2.CreateRunRequest(spec=json.dumps(spec))
        with pytest.raises(grpc.RpcError) as caught:
            run_pb2_grpc.RunServiceStub(channel).CreateRun(request, metadata=METADATA)
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "model.path" in caught.value.details()


def test_a_mirror_that_the_policy_does_not_name_is_refused(strict: Service, own: dict) -> None:
    mirrored = {**own, "checkpoint": {"mirror": "s3://somebodys/bucket"}}
    assert fields(strict.http.post("/v1/runs", json={"spec": mirrored})) == {"checkpoint.mirror"}
    mirrored = {**own, "checkpoint": {"mirror": "s3://key:canary-of-a-store@bucket"}}
    refused = strict.http.post("/v1/runs", json={"spec": mirrored})
    assert fields(refused) == {"checkpoint.mirror"}
    assert "canary" not in refused.text


def test_a_change_of_a_run_is_held_to_the_policy_too(strict: Service, own: dict) -> None:
    run = create(strict, own)
    assert fields(strict.http.patch(f"/v1/runs/{run['id']}", json={"generators": 3})) == {
        "resources.generator.replicas"
    }
    strict.http.post(f"/v1/runs/{run['id']}/stop")
    change = {"set": ["training.steps=11", "reward.grader=python:os:system", "checkpoint.mirror=s3://somebodys/bucket"]}
    assert fields(strict.http.post(f"/v1/runs/{run['id']}/resume", json=change)) == {
        *("training.steps", "reward.grader", "checkpoint.mirror")
    }
    assert strict.http.get(f"/v1/runs/{run['id']}").json()["state"] == "stopped"


CANARIES = {
    "own token": "canary-own-token-0123456789",
    "Redis": "canary-of-redis",
    "wrong token": "canary-wrong-token",
    "login": "canary-login",
    "query": "canary-query",
    "redis": "canary-spec-redis",
    "payloads": "canary-spec-payloads",
    "judge": "canary-judge-url",
    "judge query": "canary-judge-query",
    "judge key": "canary-judge-key",
    "unknown field": "canary-unknown-field",
    "resumed": "canary-resumed",
    "environment": "canary-environment",
    "cookie": "canary-cookie",
    "tracking": "canary-tracking-url",
    "wandb": "canary-of-wandb-0123456789012345678901234",
    "mlflow": "canary-of-mlflow",
    "traces": "canary-of-traces",
}


def test_no_secret_is_written_or_answered_wherever_it_came_in(tmp_path: Path, spec: dict, valkey) -> None:
    with Redis.from_url(valkey.url) as client:
        client.config_set("requirepass", CANARIES["Redis"])
    secret = add_token(tmp_path / TOKEN_FILE, "ada", Scope.ADMIN)
    url = valkey.url.replace("redis://", f"redis://:{CANARIES['Redis']}@")
    env = {
        "REDIS_URL": url,
        "JUDGE_API_KEY": CANARIES["environment"],
        "WANDB_API_KEY": CANARIES["wandb"],
        "MLFLOW_TRACKING_TOKEN": CANARIES["mlflow"],
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={CANARIES['traces']}",
    }
    service = Service(tmp_path, token=CANARIES["own token"], **env)
    answers = []

    def ask(method: str, path: str, **options) -> dict:
        answer = service.http.request(method, path, **options)
        answers.append(f"{answer.headers}\n{answer.text}")
        return answer.json() if answer.text else {}

    def judge(url: str, **more: str) -> dict:
        options = {"type": "judge", "url": url, "model": "m", "rubric": "r", **more}
        return {**spec, "reward": {"grader": "judge", "graders": {"judge": options}}}

    try:
        redis = {"url": f"redis://:{CANARIES['redis']}@h:1"}
        redis["payload_url"] = f"redis://me:{CANARIES['payloads']}@h:1"
        wrong = [
            {**spec, "resources": {**spec["resources"], "redis": redis}},
            {**spec, "resources": {"redis": {"url": f"http://:{CANARIES['Redis']}@h"}}},
            judge(f"https://me:{CANARIES['judge']}@judge/v1"),
            judge(f"https://judge/v1?api_key={CANARIES['judge query']}"),
            judge("https://judge/v1", api_key_env=CANARIES["judge key"]),
            judge("https://judge/v1", api_key=CANARIES["unknown field"]),
            {**spec, "api_key": CANARIES["unknown field"]},
            {**spec, "tracking": {"mlflow": {"tracking_uri": f"https://me:{CANARIES['tracking']}@h"}}},
            {**spec, "tracking": {"opentelemetry": {"endpoint": f"h?x={CANARIES['tracking']}@h"}}},
        ]
        for one in wrong:
            assert ask("POST", "/v1/runs", json={"spec": one})["status"] == 422
        ask("GET", "/v1/runs", headers={"Authorization": f"Bearer {CANARIES['wrong token']}"})
        ask("GET", "/v1/runs", headers={"Cookie": f"dapo_session={CANARIES['cookie']}.x", "Authorization": ""})
        ask("GET", f"/v1/runs?token={CANARIES['query']}")
        ask("POST", "/login", json={"token": CANARIES["login"]})
        ask("POST", "/login", json={"token": CANARIES["login"] * 100})
        ask("POST", "/login", json={"token": [CANARIES["login"]]})
        ask("POST", "/login", json={"token": secret})
        gone = "http://127.0.0.1:9"
        places = {"mlflow": {"tracking_uri": gone}, "opentelemetry": {"endpoint": gone}, "wandb": {"mode": "offline"}}
        run = create(service, {**spec, "tracking": places})
        told = events(service, run["id"])
        assert "tracking.mlflow" in str(told)
        change = [f"resources.redis.url=redis://:{CANARIES['resumed']}@h:1"]
        assert ask("POST", f"/v1/runs/{run['id']}/resume", json={"set": change})["status"] == 422
        ask("GET", f"/v1/runs/{run['id']}")
        ask("GET", f"/v1/runs/{run['id']}/dead-letters")
    finally:
        service.close()
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "spec.json"]
    names = {path.name for path in files}
    assert names >= {"service.log", "audit.jsonl", "spec.yaml", "provenance.json", "events.jsonl", "generator-0.log"}
    everything = {str(path): path.read_bytes() for path in files}
    everything |= {f"answer {at}": text.encode() for at, text in enumerate(answers)}
    everything["events"] = json.dumps(told).encode()
    for what, canary in {**CANARIES, "named token": secret}.items():
        found = [place for place, text in everything.items() if canary.encode() in text]
        assert not found, (what, found)
