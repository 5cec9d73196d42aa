"""A run service that starts again: which runs it takes up, and what it says of the others."""

import signal
from pathlib import Path

import pytest

from tests.support.orchestrator.run_service import Service, create, events, wait_for


def resumed(service: Service, run_id: str) -> list[str]:
    seen = events(service, run_id)
    return [data["message"] for _, kind, data in seen if kind == "alert" and data.get("kind") == "resumed"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_ended_with_its_service_is_taken_up_by_the_next(spec: dict, tmp_path: Path, number: int) -> None:
    first = Service(tmp_path)
    run = create(first, spec)
    wait_for(first, 3)
    first.http.close()
    first.process.send_signal(number)
    first.process.wait(30)
    second = Service(tmp_path)
    try:
        assert resumed(second, run["id"]) == ["the run goes on behind step 0"]
        # Its model cannot be loaded, and that is its end: the third service leaves it alone.
        assert second.http.get(f"/v1/runs/{run['id']}").json()["state"] == "failed"
    finally:
        second.close()
    third = Service(tmp_path)
    try:
        (known,) = third.http.get("/v1/runs").json()["runs"]
        assert (known["id"], known["state"]) == (run["id"], "failed")
        assert third.family() == []
        assert events(third, run["id"])[-1][2]["state"] == "failed"
    finally:
        third.close()


def test_a_run_that_was_stopped_goes_on_only_when_asked(spec: dict, tmp_path: Path) -> None:
    service = Service(tmp_path)
    run = create(service, spec)
    wait_for(service, 3)
    service.http.post(f"/v1/runs/{run['id']}/stop")
    service.close()
    service = Service(tmp_path)
    try:
        known = service.http.get(f"/v1/runs/{run['id']}").json()
        assert (known["state"], known["message"]) == ("stopped", "stopped on request")
        refused = service.http.post("/v1/runs/resume", json={"id": run["id"], "set": ["seed=9"]})
        assert refused.status_code == 422
        assert refused.json()["error"]["problems"][0]["field"] == "seed"
        assert service.http.post("/v1/runs/resume", json={"id": "none-such"}).status_code == 404
        assert service.http.post("/v1/runs/resume", json={}).status_code == 422
        again = service.http.post("/v1/runs/resume", json={"id": run["id"]})
        assert (again.status_code, again.json()["state"]) == (200, "starting")
        assert service.http.post("/v1/runs/resume", json={"id": run["id"]}).status_code == 409
        assert resumed(service, run["id"]) == ["the run goes on behind step 0"]
        assert service.http.post(f"/v1/runs/{run['id']}/purge").status_code == 204
    finally:
        service.close()
