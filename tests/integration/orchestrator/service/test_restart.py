"""A run service that starts again: which runs it takes up, and what it says of the others."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from dapo.records.folder import RunFolder
from tests.support.orchestrator.run_service import MODULE, Service, base_env, create, events, processes, wait_for


def resumed(service: Service, run_id: str) -> list[str]:
    seen = events(service, run_id)
    return [data["message"] for _, kind, data in seen if kind == "alert" and data.get("kind") == "resumed"]


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
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
        assert [process.name() for process in processes(third, "valkey-server")] == ["valkey-server"]
        assert len(third.family()) == 1, "its Valkey, and no worker"
        assert events(third, run["id"])[-1][2]["state"] == "failed"
    finally:
        third.close()


def test_a_run_that_would_be_over_at_once_is_not_resumed(spec: dict, tmp_path: Path) -> None:
    """Its files are those of a run that succeeded, but for the model."""
    (tmp_path / "exam.jsonl").write_text('{"prompt": "q", "answer": "a"}\n')
    rule = {"set": "exam", "threshold": 0.5}
    spec["evaluation"] = {"sets": {"exam": {"path": str(tmp_path / "exam.jsonl")}}, "early_stopping": rule}
    spec["evaluation"]["every_steps"] = 1
    service = Service(tmp_path)
    try:
        run = create(service, spec)
        events(service, run["id"])
        folder = RunFolder(Path(run["run_dir"]))
        folder.summary.write_text(json.dumps({**json.loads(folder.summary.read_text()), "state": "succeeded"}))
        folder.metrics.write_text(json.dumps({"step": 1, "time_s": 2.5}) + "\n")
        row = {"set": "exam", "step": 1, "samples": 4, "avg_at_k": {"value": 0.75, "low": 0.5, "high": 1.0}}
        folder.evaluations.write_text(json.dumps(row) + "\n")

        def resume(*changes: str) -> httpx.Response:
            return service.http.post(f"/v1/runs/{run['id']}/resume", json={"set": changes})

        for changes, field in (((), "evaluation.early_stopping"), (("training.steps=1",), "training.steps")):
            refused = resume(*changes)
            assert refused.status_code == 422
            assert [problem["field"] for problem in refused.json()["problems"]] == [field]
        assert resume("evaluation.early_stopping={}").status_code == 200
    finally:
        service.close()


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
        resume = f"/v1/runs/{run['id']}/resume"
        refused = service.http.post(resume, json={"set": ["seed=9"]})
        assert refused.status_code == 422
        assert refused.json()["problems"][0]["field"] == "seed"
        assert service.http.post("/v1/runs/none-such/resume", json={}).status_code == 404
        assert service.http.post(resume, json={"run_dir": run["run_dir"]}).status_code == 422
        again = service.http.post(resume, json={"set": ["checkpoint.on_stop_s=7"]})
        assert (again.status_code, again.json()["state"]) == (200, "starting")
        assert service.http.post(resume, json={}).status_code == 409
        changed = "changed: checkpoint.on_stop_s: 60.0 → 7.0"
        assert resumed(service, run["id"]) == ["the run goes on behind step 0", changed]
        assert service.http.post(f"/v1/runs/{run['id']}/purge").status_code == 204
    finally:
        service.close()


def test_a_second_service_in_the_directory_is_refused_unless_both_share_a_redis(tmp_path: Path) -> None:
    service = Service(tmp_path)
    try:
        command = [sys.executable, "-m", MODULE, "--state-dir", str(tmp_path)]
        second = subprocess.run(command, env=base_env(), capture_output=True, text=True, timeout=60, check=False)
    finally:
        service.close()
    assert second.returncode == 2
    assert second.stderr.strip().splitlines()[-1] == (
        f"the run service cannot serve: {tmp_path}/redis is in use by another run service on this machine: give both "
        "one Redis (REDIS_URL), or this one another --state-dir"
    )


def test_the_valkey_of_a_service_that_is_killed_comes_back_for_its_runs(spec: dict, tmp_path: Path) -> None:
    service = Service(tmp_path)
    try:
        run = create(service, spec)
        wait_for(service, 3)
        (server,) = processes(service, "valkey-server")
        server.kill()
        seen = events(service, run["id"])
        (told,) = [data["message"] for _, _, data in seen if data.get("kind") == "redis_restarted"]
        assert told.endswith("was ended by signal 9, and was started again with its data (restart 1 of 5)")
        # Its model cannot be loaded; that it was started at all, Redis still knows.
        assert (seen[0][2]["state"], seen[-1][2]["state"]) == ("starting", "failed")
        assert "model" in seen[-1][2]["message"]
    finally:
        service.close()
