"""Every operation of the client against a live service: by the one that waits, and by the one to be awaited."""

import json
import uuid
from pathlib import Path

import pytest

from dapo.client import RefusedRequest
from tests.support.clients import KINDS, open_client
from tests.support.orchestrator.run_service import TOKEN


@pytest.fixture(params=KINDS)
def client(request, platform):
    with open_client(request.param, str(platform.http.base_url), TOKEN) as opened:
        yield opened


def test_a_run_from_its_creation_to_its_deletion(client, spec) -> None:
    key, mark = str(uuid.uuid4()), str(uuid.uuid4())
    made = {"labels": {"mark": mark}, "notes": "by night", "priority": 7, "idempotency_key": key}
    run = client.create(json.dumps(spec), **made)
    run_id = run["id"]
    assert client.create(json.dumps(spec), **made)["id"] == run_id
    assert (run["name"], run["labels"], run["notes"], run["priority"]) == ("broken", {"mark": mark}, "by night", 7)
    assert [one["id"] for one in client.list(labels=[f"mark={mark}"], name="broken")] == [run_id]
    assert client.list(labels=[f"mark={mark}"], states=["failed"]) == []
    changed = client.update(run_id, labels={"mark": None, "team": "math"}, notes="", priority=-7)
    assert (changed["labels"], changed["notes"], changed["priority"]) == ({"team": "math"}, "", -7)
    events = client.events(run_id)
    first = next(events)
    assert (first.kind, first.data["state"]) == ("state", "starting")
    events.close()
    assert client.pipeline(run_id)["live"] in (True, False)
    assert client.groups(run_id, ["failed"]) == []
    assert client.dead_letters(run_id) == []
    with pytest.raises(RefusedRequest, match="g0000000001"):
        client.explain(run_id, "g0000000001")
    with pytest.raises(RefusedRequest):
        client.requeue(run_id, "g0000000001")
    with pytest.raises(RefusedRequest) as caught:
        client.delete(run_id)
    assert (caught.value.status, caught.value.kind) == (409, "urn:dapo:problem:conflict")
    assert client.stop(run_id)["state"] == client.get(run_id)["state"] == "stopped"
    assert [event.data["state"] for event in client.events(run_id) if event.kind == "state"][-1] == "stopped"
    with pytest.raises(RefusedRequest) as caught:
        client.resume(run_id, ["seed=7"])
    assert [problem["field"] for problem in caught.value.problems] == ["seed"]
    again = client.resume(run_id, ["training.steps=3"])
    assert (again["id"], again["steps_total"]) == (run_id, 3)
    client.stop(run_id)
    client.purge(run_id)
    client.delete(run_id, checkpoints=True)
    assert not Path(run["run_dir"]).exists()
    with pytest.raises(RefusedRequest, match="there is no run"):
        client.get(run_id)


def test_a_run_that_starts_is_neither_scaled_nor_exported_and_may_be_cancelled(client, spec) -> None:
    run_id = client.create(json.dumps(spec))["id"]
    with pytest.raises(RefusedRequest, match="it is scaled while it runs"):
        client.update(run_id, verifiers=2)
    with pytest.raises(RefusedRequest, match="no checkpoint yet"):
        client.export(run_id)
    assert client.exports(run_id) == []
    assert client.cancel(run_id)["state"] == "cancelled"


def test_what_a_run_has_written(client, recorded) -> None:
    run_id = recorded.name
    series = client.metrics(run_id, ["accuracy_mean"], since_step=3)
    assert (series["step"], series["columns"]) == ([4, 5], {"accuracy_mean": [0.4, 0.5]})
    first = client.samples(run_id, limit=3)
    rest = client.samples(run_id, limit=3, cursor=first["cursor"])
    assert [one["step"] for one in first["samples"] + rest["samples"]] == [4, 3, 2, 1, 0]
    assert [one["step"] for one in client.samples(run_id, verdict="correct")["samples"]] == [4, 2, 0]
    assert len(client.samples(run_id, "aime", step=10)["samples"]) == 4
    assert [one["step"] for one in client.evaluations(run_id)] == [0, 10]
    assert client.logs(run_id) == ["learner-0"]
    assert list(client.tail(run_id, "learner-0", 2)) == ["two \x1b[2J", "three"]
    assert list(client.tail(run_id, "learner-0", 1, follow=True)) == ["three"]
    assert client.checkpoints(run_id) == []
    assert "path:" in client.spec(run_id)


def test_what_the_service_tells_of_itself(client, spec) -> None:
    assert client.whoami()["scope"] == "admin"
    machine = client.machine()
    assert machine["memory"]["free"] <= machine["memory"]["total"]
    assert machine["queue"] == []
    assert {"dapo", "grpo"} <= {one["name"] for one in client.presets()}
    assert client.spec_schema()["type"] == "object"
    assert client.validate(json.dumps(spec))["valid"]
    found = client.validate(json.dumps(spec), ["training.steps=many"])
    assert [problem["field"] for problem in found["problems"]] == ["training.steps"]
