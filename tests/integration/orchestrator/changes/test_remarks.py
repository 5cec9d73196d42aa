"""What people say of a run, over REST and gRPC: given, changed, listed and kept."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from dapo.client import RunClient
from dapo.v1 import run_pb2, run_pb2_grpc
from tests.support.orchestrator.run_service import METADATA, TOKEN, Service, create, kind


@pytest.fixture
def stub(channel: grpc.Channel) -> run_pb2_grpc.RunServiceStub:
    return run_pb2_grpc.RunServiceStub(channel)


def said(run: dict) -> tuple[dict, str, int]:
    return run["labels"], run["notes"], run["priority"]


def stop(service: Service, run: dict) -> dict:
    return service.http.post(f"/v1/runs/{run['id']}/stop").json()


def test_what_is_said_at_the_beginning_is_in_every_view(service, stub, spec) -> None:
    body = {"spec": spec, "labels": {"team": "a", "sweep/lr": "3"}, "notes": "first\ntry", "priority": -7}
    run = service.http.post("/v1/runs", json=body).json()
    expected = ({"team": "a", "sweep/lr": "3"}, "first\ntry", -7)
    assert (run["name"], said(run)) == ("broken", expected)
    assert said(service.http.get(f"/v1/runs/{run['id']}").json()) == expected
    assert said(stop(service, run)) == expected
    listed = {one["id"]: one for one in service.http.get("/v1/runs").json()["runs"]}
    assert said(listed[run["id"]]) == expected
    over_grpc = stub.GetRun(run_pb2.GetRunRequest(id=run["id"]), metadata=METADATA)
    assert (over_grpc.name, dict(over_grpc.labels), over_grpc.notes, over_grpc.priority) == ("broken", *expected)
    request = run_pb2.CreateRunRequest(spec=json.dumps(spec), labels={"team": "a"}, notes="n", priority=3)
    other = stub.CreateRun(request, metadata=METADATA)
    assert said(stop(service, {"id": other.id})) == ({"team": "a"}, "n", 3)


def test_runs_are_listed_by_their_labels(service, stub, spec) -> None:
    ids = []
    for labels in ({"kind": "x", "n": "1"}, {"kind": "x", "n": ""}, {"kind": "y=z"}):
        ids.append(service.http.post("/v1/runs", json={"spec": spec, "labels": labels}).json()["id"])
        stop(service, {"id": ids[-1]})

    def listed(*labels: str) -> list[str]:
        found = [run["id"] for run in service.http.get("/v1/runs", params={"label": labels}).json()["runs"]]
        request = run_pb2.ListRunsRequest(labels=labels)
        assert [run.id for run in stub.ListRuns(request, metadata=METADATA).runs] == found
        return found

    assert listed("kind") == ids
    assert listed("kind=x") == ids[:2]
    assert listed("kind", "n=1") == ids[:1]
    assert listed("n=") == ids[1:2]
    assert listed("kind=y=z") == ids[2:]
    assert listed("kind=x", "kind=y=z") == []
    refused = service.http.get("/v1/runs", params={"label": "a b"})
    assert (kind(refused), refused.json()["problems"][0]["field"]) == ((422, "invalid_request"), "label")


def test_a_run_that_goes_on_and_one_that_has_ended_are_changed_alike(service, stub, spec) -> None:
    run = service.http.post("/v1/runs", json={"spec": spec, "labels": {"a": "1", "b": "2"}}).json()
    path = f"/v1/runs/{run['id']}"
    changed = service.http.patch(path, json={"labels": {"a": None, "c": "3"}, "priority": 5})
    assert (changed.status_code, said(changed.json())) == (200, ({"b": "2", "c": "3"}, "", 5))
    stop(service, run)
    request = run_pb2.UpdateRunRequest(id=run["id"], labels={"d": "4"}, remove_labels=["b", "none"], notes="done")
    over_grpc = stub.UpdateRun(request, metadata=METADATA)
    assert (dict(over_grpc.labels), over_grpc.notes, over_grpc.priority) == ({"c": "3", "d": "4"}, "done", 5)
    with RunClient(str(service.http.base_url), TOKEN) as client:
        found = client.update(run["id"], notes="", priority=0)
    assert said(found) == ({"c": "3", "d": "4"}, "", 0)
    assert said(service.http.get(path).json()) == said(found)


def test_changes_that_come_at_once_lose_nothing(service, spec) -> None:
    run = create(service, spec)
    stop(service, run)

    def change(number: int) -> int:
        return service.http.patch(f"/v1/runs/{run['id']}", json={"labels": {f"k{number}": "v"}}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(change, range(24))) == {200}
    assert service.http.get(f"/v1/runs/{run['id']}").json()["labels"] == {f"k{number}": "v" for number in range(24)}


@pytest.mark.parametrize(
    ("said", "field"),
    [
        ({"labels": {"a b": "x"}}, "labels.a b"),
        ({"labels": {"team": "x" * 256}}, "labels.team"),
        ({"labels": {str(number): "" for number in range(65)}}, "labels"),
        ({"labels": {"team": 3}}, "labels.team"),
        ({"notes": "x" * 20_000}, "notes"),
        ({"priority": 101}, "priority"),
        ({"priority": 0.5}, "priority"),
    ],
)
def test_what_is_beyond_a_limit_is_refused_with_its_field(service, spec, said, field) -> None:
    run = create(service, spec)
    stop(service, run)
    for answer in (
        service.http.post("/v1/runs", json={"spec": spec, **said}),
        service.http.patch(f"/v1/runs/{run['id']}", json=said),
    ):
        assert kind(answer) == (422, "invalid_request")
        assert [problem["field"] for problem in answer.json()["problems"]][:1] == [field]
    assert service.http.get(f"/v1/runs/{run['id']}").json() == stop(service, run)


def test_a_change_is_made_whole_or_not_at_all(service, spec) -> None:
    run = create(service, spec)
    stop(service, run)
    path = f"/v1/runs/{run['id']}"
    refused = service.http.patch(path, json={"labels": {"a": "1"}, "verifiers": 2})
    assert kind(refused) == (409, "conflict")
    assert "scaled while it runs" in refused.json()["detail"]
    refused = service.http.patch(path, json={"notes": "n", "generators": 0})
    assert kind(refused) == (422, "invalid_request")
    assert said(service.http.get(path).json()) == ({}, "", 0)
    nothing = service.http.patch(path, json={})
    assert (kind(nothing), "nothing to change" in nothing.json()["detail"]) == ((422, "invalid_request"), True)
    assert kind(service.http.patch("/v1/runs/none", json={"notes": "n"})) == (404, "not_found")


def test_what_is_said_outlives_the_service_and_goes_with_the_run(spec: dict, tmp_path: Path, valkey) -> None:
    first = Service(tmp_path, REDIS_URL=valkey.url)
    run = first.http.post("/v1/runs", json={"spec": spec, "labels": {"a": "1"}, "notes": "n"}).json()
    stop(first, run)
    first.close()
    second = Service(tmp_path, REDIS_URL=valkey.url)
    try:
        path = f"/v1/runs/{run['id']}"
        assert said(second.http.get(path).json()) == ({"a": "1"}, "n", 0)
        assert kind(second.http.patch(path, json={"labels": {"b": "2"}, "generators": 2})) == (409, "conflict")
        assert said(second.http.patch(path, json={"labels": {"b": "2"}}).json()) == ({"a": "1", "b": "2"}, "n", 0)
        assert second.http.post(f"{path}/resume", json={}).json()["labels"] == {"a": "1", "b": "2"}
        stop(second, run)
        assert second.http.delete(path).status_code == 204
        assert not Path(run["run_dir"]).exists()
    finally:
        second.close()
