"""Who may change the number of generators of a run that scales itself, over REST and gRPC."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from dapo.v1 import run_pb2, run_pb2_grpc
from tests.support.orchestrator.run_service import METADATA, Service, create

FAKE = "tests.support.orchestrator.fake_service"
SAYS = "generators: the run scales itself between 1 and 3 of them (resources.generator.autoscale). Stop it, and resume"


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path, module=FAKE)
    yield service
    service.close()


def test_nobody_else_does_until_it_is_resumed_without(fake: Service, spec: dict) -> None:
    spec["resources"]["generator"]["autoscale"] = {"max": 3}
    path = f"/v1/runs/{create(fake, spec)['id']}"
    refused = fake.http.patch(path, json={"generators": 2, "notes": "n"})
    assert refused.status_code == 409
    assert refused.json()["detail"].startswith(SAYS)
    assert fake.http.get(path).json()["notes"] == "", "all of a change or nothing"
    with grpc.insecure_channel(f"127.0.0.1:{fake.ready['grpc_port']}") as channel:
        stub = run_pb2_grpc.RunServiceStub(channel)
        request = run_pb2.UpdateRunRequest(id=path.rpartition("/")[2], generators=2)
        with pytest.raises(grpc.RpcError) as error:
            stub.UpdateRun(request, metadata=METADATA)
        assert error.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        assert error.value.details().startswith(SAYS)
    assert "autoscale" not in fake.http.patch(path, json={"verifiers": 2}).text
    fake.http.post(f"{path}/stop")
    resumed = fake.http.post(f"{path}/resume", json={"set": ["resources.generator.autoscale=null"]})
    assert resumed.status_code == 200, resumed.text
    assert "autoscale" not in fake.http.patch(path, json={"generators": 2}).text


def test_the_policy_bounds_it_too(fake: Service, spec: dict) -> None:
    spec["resources"]["generator"]["autoscale"] = {"max": 65}
    refused = fake.http.post("/v1/runs", json={"spec": spec})
    assert refused.status_code == 422
    assert "resources.generator.autoscale.max" in refused.text
