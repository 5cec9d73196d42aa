"""What a request over REST is refused with before anything is done for it."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from dapo.records.folder import RunFolder
from dapo.records.identity import RunIdentity, write_identity
from dapo.spec.problem import SpecError
from services.orchestrator.runs.resumption import check_goes_on
from tests.support.orchestrator.faces import rest_of
from tests.support.spec import spec, tree

CREATED = "2026-01-01T00:00:00.000+00:00"


def stopped(state_dir: Path, steps: int = 68, **fields: Any) -> Path:
    """A run of 100 steps that was stopped after some."""
    folder = state_dir / "runs" / "old"
    folder.mkdir(parents=True)
    (folder / "spec.yaml").write_text(json.dumps(tree(training__steps=100, **fields)))
    write_identity(folder, RunIdentity("old", CREATED))
    (folder / "summary.json").write_text('{"state": "stopped", "message": ""}')
    (folder / "metrics.jsonl").write_text(
        "".join(f'{{"step": {step}, "step_s": 2, "loss": 1}}\n' for step in range(1, steps + 1))
    )
    return folder


@pytest.fixture
def rest(tmp_path: Path) -> TestClient:
    return rest_of(tmp_path)


def test_a_run_does_not_go_on_with_fewer_steps_than_it_has(tmp_path: Path, rest: TestClient) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    (tmp_path / "d.jsonl").write_text('{"prompt": "p", "answer": "a"}\n')
    folder = stopped(tmp_path, model__path=str(tmp_path / "m"), data__path=str(tmp_path / "d.jsonl"))
    before = (folder / "spec.yaml").read_text()
    found = rest.post("/v1/runs/old/resume", json={"set": ["training.steps=12"]})
    assert (found.status_code, found.json()["type"]) == (422, "urn:dapo:problem:invalid_spec")
    (problem,) = found.json()["problems"]
    assert (problem["field"], problem["given"]) == ("training.steps", "12")
    assert problem["message"] == "the run has come to step 68 already; give more"
    assert (folder / "spec.yaml").read_text() == before


@pytest.mark.parametrize(("steps", "over", "goes_on"), [(67, False, False), (68, False, True), (68, True, False)])
def test_the_last_step_may_be_the_one_it_has_come_to(tmp_path: Path, steps: int, over: bool, goes_on: bool) -> None:
    files = RunFolder(stopped(tmp_path))
    if goes_on:
        check_goes_on(files, spec(training__steps=steps), over=over)
    else:
        with pytest.raises(SpecError, match=f"training.steps = {steps}: the run has come to step 68"):
            check_goes_on(files, spec(training__steps=steps), over=over)


def test_every_name_of_a_list_counts_however_it_is_given(tmp_path: Path, rest: TestClient) -> None:
    stopped(tmp_path, steps=2)
    for query in ("names=step_s&names=loss", "names=step_s,loss", "names=step_s,&names=,loss"):
        assert set(rest.get(f"/v1/runs/old/metrics?{query}").json()["columns"]) == {"step_s", "loss"}
    for query in ("state=issued&state=odd", "state=issued,odd"):
        assert rest.get(f"/v1/runs/old/groups?{query}").status_code == 422


def test_a_metric_that_is_mistyped_is_told_the_nearest(tmp_path: Path, rest: TestClient) -> None:
    stopped(tmp_path)
    said = rest.get("/v1/runs/old/metrics?names=entropyy").json()["detail"]
    assert "names = entropyy: is no metric. Did you mean entropy" in said
    said = rest.get("/v1/runs/old/metrics?names=qqqq").json()["detail"]
    assert "names = qqqq: is no metric. Without names all are answered" in said
    assert ".py" not in said


@pytest.mark.parametrize(
    ("method", "path", "field", "says"),
    [
        ("GET", "runs?lable=team%3Dnosuch", "lable", "Did you mean label?"),
        ("GET", "runs?limit=1&limit=2", "limit", "is given 2 times"),
        ("GET", "runs/old?full=1", "full", "There are none"),
        ("DELETE", "runs/old?checkpoint=true", "checkpoint", "Did you mean checkpoints?"),
        ("PATCH", "runs/old?priority=3", "priority", "There are none"),
        ("GET", "machine?x", "x", "There are none"),
    ],
)
def test_a_query_that_a_route_does_not_have_is_refused(
    tmp_path: Path, rest: TestClient, method: str, path: str, field: str, says: str
) -> None:
    folder = stopped(tmp_path)
    found = rest.request(method, f"/v1/{path}", json={"notes": "n"} if method == "PATCH" else None)
    assert (found.status_code, found.json()["type"]) == (422, "urn:dapo:problem:invalid_request")
    (problem,) = found.json()["problems"]
    assert problem["field"] == field
    assert says in problem["message"]
    assert (folder / "spec.yaml").exists()


def test_queries_that_a_route_has_are_taken_also_several_times_where_they_are_lists(rest: TestClient) -> None:
    assert rest.get("/v1/runs?label=a&label=b&state=failed&state=stopped&limit=3").status_code == 200
    assert rest.get("/healthz?probe=7").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/", "/docs", "/page/app.js"])
def test_what_wants_no_token_answers_head_as_get(rest: TestClient, path: str) -> None:
    head, get = rest.head(path), rest.get(path)
    assert (head.status_code, head.headers["content-type"]) == (200, get.headers["content-type"])
    assert rest.post(path).status_code == 405


@pytest.mark.parametrize(
    ("method", "path", "body", "field", "given", "says"),
    [
        (
            "POST",
            "runs",
            {"spec": "x", "lables": {}},
            "lables",
            None,
            "is no field of this request. Did you mean label",
        ),
        ("POST", "runs", {}, "spec", None, "is required. The RunSpec: YAML or JSON text"),
        ("POST", "runs", {"spec": 3}, "spec", "3", "must be text, or must be an object"),
        ("POST", "runs", "{'", "body", None, "is no JSON ("),
        ("POST", "runs", "[1]", "body", "[1]", "is no object. Send a JSON object, with Content-Type: application/json"),
        ("POST", "runs", None, "body", None, "is required. Send a JSON object"),
        ("POST", "runs", {"spec": "x", "priority": 0.5}, "priority", "0.5", "must be an integer"),
        ("PATCH", "runs/old", {"generators": 0}, "generators", "0", "must be at least 1"),
        ("PATCH", "runs/old", {"priority": 101}, "priority", "101", "take one from -100 to 100"),
        ("GET", "runs?state=odd", None, "state", "odd", "is not one of the choices: 'queued'"),
        ("GET", "runs?limit=0", None, "limit", "0", "must be at least 1"),
        ("GET", "runs/old/groups?state=odd", None, "state", "odd", "is none of "),
        ("GET", "runs/old/samples?verdict=odd", None, "verdict", "odd", "is not one of the choices: "),
        ("GET", "runs/old/groups/g12x", None, "group", "g12x", "ten digits, e.g. g0000000012"),
    ],
)
def test_a_wrong_field_is_told_by_its_name_with_what_was_given_and_the_cure(
    tmp_path: Path, rest: TestClient, method: str, path: str, body: Any, field: str, given: str | None, says: str
) -> None:
    stopped(tmp_path)
    text = body if isinstance(body, str) else json.dumps(body) if body is not None else None
    headers = {"Content-Type": "application/json"}
    found = rest.request(method, f"/v1/{path}", content=text, headers=headers)
    assert (found.status_code, found.json()["type"]) == (422, "urn:dapo:problem:invalid_request")
    (problem,) = found.json()["problems"]
    assert (problem["field"], problem["given"]) == (field, given)
    assert says in problem["message"]
    assert not problem["message"].startswith(field)
    head = field if given is None else f"{field} = {given}"
    assert found.json()["detail"] == f"{head}: {problem['message']}"


def test_a_body_that_is_no_json_is_told_what_to_send(rest: TestClient) -> None:
    found = rest.post("/v1/runs", content="hello", headers={"Content-Type": "text/plain"}).json()
    (problem,) = found["problems"]
    assert (problem["field"], problem["given"]) == ("body", "hello")
    assert "Content-Type: application/json" in problem["message"]
