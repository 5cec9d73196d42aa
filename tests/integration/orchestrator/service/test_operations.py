"""What a live run service is asked beside running: lists, logs, checkpoints, specs, deletion."""

import json
from pathlib import Path

import grpc
import pytest

from dapo.client import RefusedRequest, RunClient
from dapo.records.checkpoints import Manifest, directory_name, file_sizes, mark, write_manifest
from dapo.v1 import run_pb2, run_pb2_grpc
from tests.support.orchestrator.run_service import METADATA, TOKEN, Service, create, events, kind, wait_for


@pytest.fixture
def client(service: Service):
    with RunClient(str(service.http.base_url), TOKEN) as open_client:
        yield open_client


@pytest.fixture
def stub(channel: grpc.Channel) -> run_pb2_grpc.RunServiceStub:
    return run_pb2_grpc.RunServiceStub(channel)


def ended(service: Service, spec: dict, name: str) -> dict:
    run = create(service, {**spec, "name": name})
    return service.http.post(f"/v1/runs/{run['id']}/stop").json()


def checkpoint(run: dict, step: int) -> Path:
    root = Path(run["run_dir"]) / "checkpoints"
    directory = root / directory_name(step, 1)
    directory.mkdir(parents=True)
    (directory / "weights").write_bytes(b"x" * 100)
    manifest = Manifest(
        step=step, incarnation=1, seed=0, world_size=1, zero_stage=0, dtype="float32", files=file_sizes(directory)
    )
    write_manifest(directory, manifest)
    names = sorted((path.name for path in root.iterdir() if path.is_dir()), reverse=True)
    mark(root, 1, names)
    return directory


def test_runs_are_listed_in_pages_and_by_state_and_name(service, stub, client, spec) -> None:
    ids = [ended(service, spec, f"listed-{name}")["id"] for name in "aab"]
    going = create(service, {**spec, "name": "listed-going"})
    get = lambda **query: service.http.get("/v1/runs", params=query).json()  # noqa: E731
    assert [run["id"] for run in get(name="listed-a")["runs"]] == ids[:2]
    assert [run["id"] for run in get(name="listed-a", newest_first=True)["runs"]] == ids[1::-1]
    first = get(limit=1, name="listed-a")
    assert [run["id"] for run in first["runs"]] == ids[:1]
    second = get(limit=1, name="listed-a", cursor=first["next"])
    assert ([run["id"] for run in second["runs"]], second["next"]) == (ids[1:2], None)
    assert going["id"] not in {run["id"] for run in get(state="stopped")["runs"]}
    assert {run["state"] for run in get(state=["failed", "stopped"])["runs"]} <= {"failed", "stopped"}
    assert kind(service.http.get("/v1/runs", params={"state": "odd"})) == (422, "invalid_request")
    assert kind(service.http.get("/v1/runs", params={"cursor": "odd"})) == (422, "invalid_request")
    wanted = run_pb2.ListRunsRequest(name="listed-a", limit=1, states=[run_pb2.RUN_STATE_STOPPED])
    page = stub.ListRuns(wanted, metadata=METADATA)
    assert ([run.id for run in page.runs], page.next) == (ids[:1], first["next"])
    assert [run["id"] for run in client.list(states=["stopped"], name="listed-a")] == ids[:2]
    service.http.post(f"/v1/runs/{going['id']}/stop")


def test_a_request_with_a_key_makes_one_run(service, stub, client, spec) -> None:
    ask = lambda body: service.http.post("/v1/runs", json=body, headers={"Idempotency-Key": "k-1"})  # noqa: E731
    first, again = ask({"spec": spec}), ask({"spec": spec})
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.json()["id"] == again.json()["id"]
    assert ("idempotency-replayed" in first.headers, again.headers["idempotency-replayed"]) == (False, "true")
    assert kind(ask({"spec": {**spec, "seed": 5}})) == (409, "key_reused")
    assert client.create(json.dumps(spec), idempotency_key="k-1")["id"] == first.json()["id"]
    with pytest.raises(grpc.RpcError) as caught:
        stub.CreateRun(run_pb2.CreateRunRequest(spec="other", idempotency_key="k-1"), metadata=METADATA)
    assert caught.value.code() == grpc.StatusCode.ALREADY_EXISTS
    service.http.post(f"/v1/runs/{first.json()['id']}/stop")


def test_a_spec_is_validated_without_a_run(service, stub, client, spec) -> None:
    runs = len(service.http.get("/v1/runs", params={"limit": 1000}).json()["runs"])
    found = service.http.post("/v1/specs/validate", json={"spec": spec, "set": ["training.steps=5"]})
    assert found.status_code == 200
    wrong = service.http.post("/v1/specs/validate", json={"spec": spec, "set": ["training.steps=many"]}).json()
    assert (wrong["valid"], wrong["resolved"], wrong["plan"]) == (False, None, None)
    assert [(problem["field"], problem["given"]) for problem in wrong["problems"]] == [("training.steps", "many")]
    request = run_pb2.ValidateSpecRequest(spec=json.dumps(spec), set=["training.steps=5"])
    over_grpc = stub.ValidateSpec(request, metadata=METADATA)
    assert json.loads(over_grpc.data) == found.json() == client.validate(json.dumps(spec), ["training.steps=5"])
    assert over_grpc.valid == found.json()["valid"]
    assert len(service.http.get("/v1/runs", params={"limit": 1000}).json()["runs"]) == runs


def test_presets_and_the_schema_are_the_same_over_both_faces(service, stub) -> None:
    presets = service.http.get("/v1/presets").json()["presets"]
    assert {preset["name"] for preset in presets} >= {"dapo", "grpo", "ppo"}
    over_grpc = stub.ListPresets(run_pb2.ListPresetsRequest(), metadata=METADATA).presets
    assert [
        {"name": one.name, "description": one.description, "fields": json.loads(one.fields)} for one in over_grpc
    ] == (presets)
    schema = service.http.get("/v1/spec-schema")
    assert schema.headers["content-type"] == "application/schema+json"
    assert schema.json() == json.loads(stub.GetSpecSchema(run_pb2.GetSpecSchemaRequest(), metadata=METADATA).schema)


def test_the_log_of_a_worker_is_read_and_followed_to_the_end_of_the_run(service, stub, client, spec) -> None:
    run = ended(service, spec, "logged")
    path = f"/v1/runs/{run['id']}/logs"
    text = "".join(f"line {number}\n" for number in range(200))
    (Path(run["run_dir"]) / "logs").mkdir(exist_ok=True)
    (Path(run["run_dir"]) / "logs/learner-0.log").write_text(text)
    workers = service.http.get(path).json()["workers"]
    assert "learner-0" in workers
    answer = service.http.get(f"{path}/learner-0", params={"lines": 10_000})
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.text == text
    last = text.splitlines()[-3:]
    assert service.http.get(f"{path}/learner-0", params={"lines": 3, "follow": True}).text.splitlines() == last
    asked = run_pb2.TailLogsRequest(id=run["id"], worker="learner-0", lines=3, follow=True)
    assert [line.text for line in stub.TailLogs(asked, metadata=METADATA)] == last
    assert list(stub.ListLogs(run_pb2.ListLogsRequest(id=run["id"]), metadata=METADATA).workers) == workers
    assert list(client.tail(run["id"], "learner-0", 3, follow=True)) == last
    assert kind(service.http.get(f"{path}/none")) == (404, "not_found")
    assert kind(service.http.get(f"{path}/..%2F..%2Fspec")) == (404, "about:blank")
    assert kind(service.http.get(f"{path}/learner-0", params={"lines": 0})) == (422, "invalid_request")


def test_a_follower_that_leaves_or_runs_out_of_time_is_let_go(service, stub, spec) -> None:
    run = create(service, {**spec, "name": "followed"})
    with service.http.stream("GET", f"/v1/runs/{run['id']}/events") as stream:
        next(stream.iter_lines())
    call = stub.WatchRun(run_pb2.WatchRunRequest(id=run["id"]), metadata=METADATA)
    next(call)
    call.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.WatchRun(run_pb2.WatchRunRequest(id=run["id"]), metadata=METADATA, timeout=0.2))
    assert caught.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
    assert service.http.post(f"/v1/runs/{run['id']}/stop").status_code == 200


def test_events_go_on_behind_the_last_that_a_browser_has_seen(service, spec) -> None:
    run = create(service, {**spec, "name": "seen"})
    wait_for(service, 3)
    service.http.post(f"/v1/runs/{run['id']}/stop")
    seen = events(service, run["id"])
    path = f"/v1/runs/{run['id']}/events"
    text = service.http.get(path, headers={"Last-Event-ID": seen[-2][0]}, params={"after": seen[0][0]}).text
    assert text.startswith(f"id: {seen[-1][0]}\n")
    assert text.count("\nevent: ") == 1
    assert kind(service.http.get(path, headers={"Last-Event-ID": "odd"})) == (422, "invalid_request")


def test_checkpoints_are_listed_and_stay_when_a_run_is_deleted(service, stub, client, spec) -> None:
    run = ended(service, spec, "kept")
    assert service.http.get(f"/v1/runs/{run['id']}/checkpoints").json() == {"checkpoints": []}
    checkpoint(run, 1)
    newest = checkpoint(run, 2)
    (newest / "weights").write_bytes(b"")
    found = service.http.get(f"/v1/runs/{run['id']}/checkpoints").json()["checkpoints"]
    assert [(one["step"], bool(one["damage"])) for one in found] == [(2, True), (1, False)]
    assert found[1]["size"] > 100
    over_grpc = stub.ListCheckpoints(run_pb2.ListCheckpointsRequest(id=run["id"]), metadata=METADATA).checkpoints
    assert [(one.step, one.directory, one.size, one.damage) for one in over_grpc] == [
        tuple(one.values()) for one in found
    ]
    assert client.checkpoints(run["id"]) == found
    client.delete(run["id"])
    folder = Path(run["run_dir"])
    assert {path.name for path in folder.iterdir()} == {"checkpoints", "spec.yaml"}
    with pytest.raises(RefusedRequest, match="there is no run"):
        client.get(run["id"])


def test_a_run_is_deleted_whole_once_it_has_ended(service, stub, spec) -> None:
    run = create(service, {**spec, "name": "deleted"})
    assert kind(service.http.delete(f"/v1/runs/{run['id']}")) == (409, "conflict")
    service.http.post(f"/v1/runs/{run['id']}/stop")
    checkpoint(run, 1)
    stub.DeleteRun(run_pb2.DeleteRunRequest(id=run["id"], checkpoints=True), metadata=METADATA)
    assert not Path(run["run_dir"]).exists()
    assert kind(service.http.get(f"/v1/runs/{run['id']}")) == (404, "not_found")
    assert kind(service.http.delete(f"/v1/runs/{run['id']}")) == (404, "not_found")


def test_a_service_is_ready_while_its_redis_answers(service, tmp_path, valkey) -> None:
    assert service.http.get("/readyz", headers={"Authorization": ""}).json() == {"status": "ready"}
    with_redis = Service(tmp_path, REDIS_URL=valkey.url)
    try:
        assert with_redis.http.get("/readyz").status_code == 200
        valkey.stop()
        assert kind(with_redis.http.get("/readyz")) == (503, "no_answer")
        assert with_redis.http.get("/healthz").status_code == 200
    finally:
        with_redis.close()
