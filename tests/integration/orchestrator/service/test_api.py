"""The faces of the run service, REST and gRPC: errors, tokens, health, reflection."""

import json
import subprocess
import sys

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from dapo.v1 import run_pb2, run_pb2_grpc
from services.orchestrator.api.doors.grpc import PROBLEM
from tests.support.orchestrator.run_service import METADATA, Service, base_env, create, kind


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """The service of one command, which chooses its run's folder."""
    running = Service(tmp_path_factory.mktemp("own"), "--embedded")
    yield running
    running.close()


def test_rest_errors_are_typed_and_name_the_field(service, spec, tmp_path):
    wrong = {**spec, "sampling": {**spec["sampling"], "top_p": 0.9}, "training": {"steps": "many"}}
    response = service.http.post("/v1/runs", json={"spec": wrong})
    assert kind(response) == (422, "invalid_spec")
    fields = {problem["field"]: problem for problem in response.json()["problems"]}
    assert fields["training.steps"]["given"] == "many"
    assert fields["training.steps"]["message"] in response.json()["detail"]

    missing = {**spec, "model": {"path": str(tmp_path / "absent")}}
    (problem,) = service.http.post("/v1/runs", json={"spec": missing}).json()["problems"]
    assert problem["field"] == "model.path"

    asked = [("GET", ""), ("POST", "/stop"), ("GET", "/events"), ("GET", "/logs"), ("POST", "/purge"), ("DELETE", "")]
    for method, path in (
        (method, f"/v1/runs/{run}{path}") for run in ("none", "%C3%A7", "a%20b", "x" * 200) for method, path in asked
    ):
        response = service.http.request(method, path)
        assert kind(response) == (404, "not_found")
    response = service.http.post("/v1/runs", json={})
    assert (response.status_code, response.json()["problems"][0]["field"]) == (422, "spec")


OUTSIDE = ["../../x", "..", "runs/../../x", "/tmp/x", "link/x", "link", ".", "a\0b"]


@pytest.mark.parametrize("run_dir", OUTSIDE)
def test_a_run_is_not_written_outside_of_the_services_directory(own, spec, tmp_path, run_dir):
    link = own.folder / "link"
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path)
    before = sorted(tmp_path.iterdir())
    response = own.http.post("/v1/runs", json={"spec": spec, "run_dir": run_dir})
    assert kind(response) == (422, "invalid_request")
    assert [problem["field"] for problem in response.json()["problems"]] == ["run_dir"]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("within", ["", "logs", "checkpoints/step-000001.e1"])
def test_a_run_is_not_written_into_the_folder_of_another(own, spec, within):
    other = own.folder / "another"
    other.mkdir(exist_ok=True)
    (other / "spec.yaml").write_text("{}")
    response = own.http.post("/v1/runs", json={"spec": spec, "run_dir": f"another/{within}"})
    assert kind(response) == ((422, "invalid_request") if within else (409, "conflict"))
    assert [path.name for path in other.iterdir()] == ["spec.yaml"]


@pytest.mark.parametrize("absolute", [False, True])
def test_a_run_of_one_command_may_have_any_folder_below_its_directory(own, spec, absolute):
    name = f"mine/{absolute}"
    run_dir = str(own.folder / name) if absolute else name
    run = own.http.post("/v1/runs", json={"spec": spec, "run_dir": run_dir}).json()
    assert run["run_dir"] == str(own.folder.resolve() / name)
    own.http.post(f"/v1/runs/{run['id']}/stop")


def test_a_service_chooses_the_folders_of_its_runs_itself(service, channel, spec):
    before = sorted(service.folder.iterdir())
    response = service.http.post("/v1/runs", json={"spec": spec, "run_dir": "mine"})
    assert kind(response) == (422, "invalid_request")
    (problem,) = response.json()["problems"]
    assert problem["field"] == "run_dir"
    assert "Leave run_dir out" in problem["message"]
    with pytest.raises(grpc.RpcError) as caught:
        run_pb2_grpc.RunServiceStub(channel).CreateRun(
            run_pb2.CreateRunRequest(spec=json.dumps(spec), run_dir="mine"), metadata=METADATA
        )
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details().startswith("run_dir = mine: ")
    assert sorted(service.folder.iterdir()) == before
    run = create(service, spec)
    assert run["run_dir"] == str(service.folder.resolve() / "runs" / run["id"])
    service.http.post(f"/v1/runs/{run['id']}/stop")


def test_every_route_of_runs_wants_the_token(service):
    for headers in ({"Authorization": "Bearer wrong"}, {"Authorization": ""}):
        response = service.http.get("/v1/runs", headers=headers)
        assert kind(response) == (401, "unauthorised")
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


def test_a_path_or_a_method_that_is_not_there_is_a_problem_too(service):
    assert kind(service.http.get("/v1/nowhere")) == (404, "about:blank")
    run = "/v1/runs/none"
    for path, allowed in (("/v1/runs", "GET, POST"), (f"{run}/resume", "POST"), (run, "DELETE, GET, PATCH")):
        response = service.http.put(path)
        assert kind(response) == (405, "about:blank")
        assert response.headers["allow"] == allowed


def test_a_body_that_is_no_text_is_refused(service):
    for body in (b"\xff\xfe", b"{", b""):
        response = service.http.post("/v1/runs", content=body, headers={"Content-Type": "application/json"})
        assert kind(response) == (422, "invalid_request")


def test_grpc_tells_the_same_problem_beside_its_status(service, channel):
    wrong = "model: {path: .}\ntraining: {steps: many}"
    with pytest.raises(grpc.RpcError) as caught:
        run_pb2_grpc.RunServiceStub(channel).CreateRun(run_pb2.CreateRunRequest(spec=wrong), metadata=METADATA)
    over_grpc = json.loads(dict(caught.value.trailing_metadata())[PROBLEM])
    over_rest = service.http.post("/v1/runs", json={"spec": wrong}).json()
    assert over_grpc.pop("instance") == "/dapo.v1.RunService/CreateRun"
    assert over_rest.pop("instance") == "/v1/runs"
    assert over_grpc == over_rest


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
    with grpc.insecure_channel(f"127.0.0.1:{service.ready['grpc_port']}", [("grpc.enable_http_proxy", 0)]) as plain:
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
