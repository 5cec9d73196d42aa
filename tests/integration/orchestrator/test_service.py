"""The run service as a process, over REST, gRPC and the command line, with runs whose model cannot be loaded."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from redis import Redis

from dapo.host.processes import family
from dapo.v1 import run_pb2, run_pb2_grpc
from tests.support.paths import REPO

TOKEN = "test-token"


def base_env(**extra: str) -> dict[str, str]:
    env = {name: value for name, value in os.environ.items() if name != "REDIS_URL"}
    return {**env, "PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1", **extra}


class Service:
    def __init__(self, folder: Path, **env: str) -> None:
        ready = folder / "ready.json"
        command = [
            sys.executable,
            "-m",
            "services.orchestrator",
            "--state-dir",
            str(folder),
            "--ready-file",
            str(ready),
        ]
        self.log = folder / "service.log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, env=base_env(DAPO_API_TOKEN=TOKEN, **env), start_new_session=True
            )
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.ready = json.loads(ready.read_text())
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.ready['port']}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=60,
            trust_env=False,
        )

    def family(self) -> list[int]:
        """All processes of the service but itself."""
        return [entry.pid for entry in family([self.process.pid]) if entry.pid != self.process.pid]

    def close(self) -> None:
        self.http.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        finally:
            self.process.kill()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    running = Service(tmp_path_factory.mktemp("service"))
    yield running
    running.close()


@pytest.fixture(scope="module")
def channel(service):
    with grpc.insecure_channel(f"127.0.0.1:{service.ready['grpc_port']}") as open_channel:
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


def create(service: Service, spec: dict) -> dict:
    response = service.http.post("/v1/runs", json={"spec": spec})
    assert response.status_code == 201, response.text
    return response.json()


def events(service: Service, run_id: str, after: str = "") -> list[tuple[str, str, dict]]:
    """All events until the run has ended."""
    found = []
    with service.http.stream("GET", f"/v1/runs/{run_id}/events", params={"after": after}, timeout=240) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        block: dict[str, str] = {}
        for line in response.iter_lines():
            if line:
                name, _, value = line.partition(": ")
                block[name] = value
            else:
                found.append((block["id"], block["event"], json.loads(block["data"])))
    return found


def test_a_run_whose_services_fail_says_which_and_why_and_leaves_nothing(service, channel, spec):
    run = create(service, spec)
    assert run["state"] == "starting"
    assert run["steps_total"] == 2
    seen = events(service, run["id"])
    kinds = [kind for _, kind, _ in seen]
    assert kinds[0] == "state"
    assert seen[-1][1] == "state"
    assert seen[-1][2]["state"] == "failed"
    launched = [data["worker_id"] for _, kind, data in seen if kind == "service" and data["state"] == "launched"]
    assert launched == ["generator-0", "verifier-0", "learner-0"]
    (failure,) = [data for _, kind, data in seen if kind == "service" and data["state"] == "failed"]
    assert failure["worker_id"] in ("generator-0", "learner-0")
    assert any(
        "malformed" in data["message"] and "line 2" in data["message"] for _, kind, data in seen if kind == "alert"
    )

    end = service.http.get(f"/v1/runs/{run['id']}").json()
    assert end["state"] == "failed"
    assert f"{failure['worker_id']} exited with code" in end["message"]
    assert f"{failure['worker_id']}.log" in end["message"]
    assert failure["log_end"].splitlines()[-1] in end["message"]
    assert service.family() == []

    folder = Path(run["run_dir"])
    assert json.loads((folder / "summary.json").read_text())["state"] == "failed"
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["data"]["rows"] == 1
    assert provenance["data"]["malformed_rows"][0]["line"] == 2
    assert "config.json" in provenance["model"]["files"]
    assert {path.name for path in (folder / "logs").iterdir()} >= {"generator-0.log", "verifier-0.log", "learner-0.log"}

    # Watching after the end, from the middle, over both faces.
    assert events(service, run["id"], after=seen[2][0]) == seen[3:]
    stub = run_pb2_grpc.RunServiceStub(channel)
    request = run_pb2.WatchRunRequest(id=run["id"], after=seen[2][0])
    watched = [(e.id, e.kind, json.loads(e.data)) for e in stub.WatchRun(request, metadata=METADATA)]
    assert watched == seen[3:]


METADATA = (("authorization", f"Bearer {TOKEN}"),)


def test_stop_ends_a_starting_run_and_leaves_no_process(service, spec):
    run = create(service, {**spec, "name": "stopped"})
    deadline = time.monotonic() + 60
    while len(service.family()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    ended = service.http.post(f"/v1/runs/{run['id']}/stop").json()
    assert (ended["state"], ended["message"]) == ("stopped", "stopped on request")
    assert service.family() == []
    again = service.http.post(f"/v1/runs/{run['id']}/stop")
    assert (again.status_code, again.json()["state"]) == (200, "stopped")


def processes(service: Service, name: str) -> list[psutil.Process]:
    found = (psutil.Process(pid) for pid in service.family())
    return [process for process in found if process.name() == name]


def wait_for(service: Service, count: int) -> None:
    deadline = time.monotonic() + 60
    while len(service.family()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_an_embedded_valkey_that_dies_is_named_with_the_end_of_its_log(service, spec):
    run = create(service, spec)
    wait_for(service, 3)
    (valkey,) = processes(service, "valkey-server")
    valkey.kill()
    seen = events(service, run["id"])
    message = service.http.get(f"/v1/runs/{run['id']}").json()["message"]
    assert "the embedded Valkey was ended by signal 9" in message
    assert f"{run['run_dir']}/redis/valkey.log" in message
    assert "Ready to accept connections" in message
    assert "Start the server" not in message
    assert (seen[-1][1], seen[-1][2]["state"]) == ("state", "failed")
    assert service.family() == []


def test_a_full_disk_is_called_one_and_leaves_no_process(service, spec, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".summary.json.part").symlink_to("/dev/full")
    run = service.http.post("/v1/runs", json={"spec": spec, "run_dir": str(folder)}).json()
    wait_for(service, 3)
    end = service.http.post(f"/v1/runs/{run['id']}/stop").json()
    assert end["state"] == "failed"
    assert "summary.json cannot be written: the disk is full" in end["message"]
    assert service.family() == []


def test_a_run_on_a_server_of_others_leaves_only_its_record_there(spec, tmp_path, valkey):
    service = Service(tmp_path, REDIS_URL=valkey.url)
    try:
        run = create(service, spec)
        wait_for(service, 3)
        assert service.http.post(f"/v1/runs/{run['id']}/stop").json()["state"] == "stopped"
        with Redis.from_url(valkey.url) as client:
            left = {key.decode().removeprefix(f"dapo:{{{run['id']}}}:") for key in client.scan_iter()}
        assert left <= {"run", "events", "ledger", "dead"}
        assert {"run", "events"} <= left
    finally:
        service.close()


def test_a_redis_that_hangs_does_not_hold_up_the_end(spec, tmp_path, valkey):
    service = Service(tmp_path, REDIS_URL=valkey.url)
    server = psutil.Process(valkey.pid)
    try:
        run = create(service, spec)
        wait_for(service, 3)
        server.suspend()
        assert service.http.post(f"/v1/runs/{run['id']}/stop").json()["state"] == "stopped"
        assert json.loads((Path(run["run_dir"]) / "summary.json").read_text())["state"] == "stopped"
        assert service.family() == []
    finally:
        server.resume()
        service.close()


def test_rest_errors_are_typed_and_name_the_field(service, spec, tmp_path):
    wrong = {**spec, "sampling": {**spec["sampling"], "top_p": 0.9}, "training": {"steps": "many"}}
    response = service.http.post("/v1/runs", json={"spec": wrong})
    assert response.status_code == 422
    error = response.json()["error"]
    assert error["code"] == "invalid_spec"
    fields = {problem["field"]: problem for problem in error["problems"]}
    assert "training.steps" in fields
    assert fields["training.steps"]["value"] == "many"

    missing = {**spec, "model": {"path": str(tmp_path / "absent")}}
    (problem,) = service.http.post("/v1/runs", json={"spec": missing}).json()["error"]["problems"]
    assert problem["field"] == "model.path"

    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "spec.yaml").write_text("{}")
    response = service.http.post("/v1/runs", json={"spec": spec, "run_dir": str(taken)})
    assert (response.status_code, response.json()["error"]["code"]) == (409, "conflict")

    for method, path in (("GET", "/v1/runs/none"), ("POST", "/v1/runs/none/stop"), ("GET", "/v1/runs/none/events")):
        response = service.http.request(method, path)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")
    response = service.http.post("/v1/runs", json={})
    assert (response.status_code, response.json()["error"]["problems"][0]["field"]) == (422, "body.spec")


def test_every_route_of_runs_wants_the_token(service):
    for headers in ({"Authorization": "Bearer wrong"}, {"Authorization": ""}):
        response = service.http.get("/v1/runs", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorised")
    assert service.http.get("/healthz", headers={"Authorization": ""}).json()["status"] == "ok"


def test_grpc_is_the_same_service(service, channel, spec):
    stub = run_pb2_grpc.RunServiceStub(channel)
    request = run_pb2.CreateRunRequest(spec=json.dumps({**spec, "name": "over-grpc"}))
    run = stub.CreateRun(request, metadata=METADATA)
    assert run.id.startswith("over-grpc-")
    assert service.http.get(f"/v1/runs/{run.id}").json()["run_dir"] == run.run_dir
    stopped = stub.StopRun(run_pb2.StopRunRequest(id=run.id), metadata=METADATA)
    assert stopped.state in (run_pb2.RUN_STATE_STOPPED, run_pb2.RUN_STATE_FAILED)
    ids = [item.id for item in stub.ListRuns(run_pb2.ListRunsRequest(), metadata=METADATA).runs]
    assert ids == [item["id"] for item in service.http.get("/v1/runs").json()["runs"]]
    assert run.id in ids


@pytest.mark.parametrize(
    ("call", "request_", "code"),
    [
        ("CreateRun", run_pb2.CreateRunRequest(spec="model: 3"), grpc.StatusCode.INVALID_ARGUMENT),
        ("GetRun", run_pb2.GetRunRequest(id="none"), grpc.StatusCode.NOT_FOUND),
        ("StopRun", run_pb2.StopRunRequest(id="none"), grpc.StatusCode.NOT_FOUND),
    ],
)
def test_grpc_errors(channel, call, request_, code):
    method = getattr(run_pb2_grpc.RunServiceStub(channel), call)
    with pytest.raises(grpc.RpcError) as caught:
        method(request_, metadata=METADATA)
    assert caught.value.code() == code
    with pytest.raises(grpc.RpcError) as caught:
        method(request_)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_grpc_streams_want_the_token_and_a_known_run(channel):
    stub = run_pb2_grpc.RunServiceStub(channel)
    for metadata, code in ((METADATA, grpc.StatusCode.NOT_FOUND), (None, grpc.StatusCode.UNAUTHENTICATED)):
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.WatchRun(run_pb2.WatchRunRequest(id="none"), metadata=metadata))
        assert caught.value.code() == code


def test_grpc_health_and_reflection(channel):
    health = health_pb2_grpc.HealthStub(channel)
    reply = health.Check(health_pb2.HealthCheckRequest(service="dapo.v1.RunService"))
    assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_grpc_reflection_with_the_token(service):
    token = _WithToken()
    with grpc.insecure_channel(f"127.0.0.1:{service.ready['grpc_port']}") as plain:
        database = ProtoReflectionDescriptorDatabase(grpc.intercept_channel(plain, token))
        assert "dapo.v1.RunService" in database.get_services()


class _WithToken(grpc.StreamStreamClientInterceptor):
    def intercept_stream_stream(self, continuation, details, requests):
        return continuation(details._replace(metadata=METADATA), requests)


def test_beyond_loopback_without_a_token_is_refused():
    env = base_env()
    env.pop("DAPO_API_TOKEN", None)
    command = [sys.executable, "-m", "services.orchestrator", "--host", "0.0.0.0"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "DAPO_API_TOKEN" in done.stderr


def dapo_train(spec: dict, folder: Path) -> subprocess.Popen:
    path = folder / "spec.json"
    path.write_text(json.dumps(spec))
    command = [sys.executable, "-m", "dapo.cli.main", "train", str(path), "--run-dir", str(folder / "run")]
    return subprocess.Popen(
        command, env=base_env(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_for_services(folder: Path) -> None:
    deadline = time.monotonic() + 120
    while not (folder / "run/logs/learner-0.log").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_dapo_train_of_a_failing_run_ends_with_1_and_shows_the_log(spec, tmp_path):
    process = dapo_train(spec, tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 1, out + err
    assert "exited with code" in out
    assert "starting SGLang (generator-0)" in out
    assert str(tmp_path / "run") in out
    assert "Traceback (most recent call last)" not in err
    assert (tmp_path / "run/logs/orchestrator.log").exists()
    assert family([process.pid]) == []


def test_ctrl_c_stops_the_run_and_leaves_no_process(spec, tmp_path):
    process = dapo_train(spec, tmp_path)
    wait_for_services(tmp_path)
    members = [entry for entry in family([process.pid]) if entry.pid != process.pid]
    assert len(members) >= 3
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, out + err
    assert "stopping…" in out
    assert json.loads((tmp_path / "run/summary.json").read_text())["state"] == "stopped"
    assert not [entry for entry in members if entry in family([entry.pid])]


def test_the_service_and_its_run_die_with_a_killed_command_line(spec, tmp_path):
    process = dapo_train(spec, tmp_path)
    wait_for_services(tmp_path)
    members = [entry for entry in family([process.pid]) if entry.pid != process.pid]
    process.kill()
    process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while left := [entry for entry in members if entry in family([entry.pid])]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)
