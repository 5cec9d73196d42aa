"""Runs of the service, whose model cannot be loaded: how each ends, and that it leaves nothing behind."""

import asyncio
import json
import os
import time
from pathlib import Path

import psutil
import pytest
import redis
from redis import Redis

from dapo.records.identity import RunIdentity
from dapo.v1 import run_pb2, run_pb2_grpc
from services.orchestrator.fleet.errors import RunConflict
from services.orchestrator.fleet.service import RunService
from services.orchestrator.records.recorder import Recorder
from tests.support.orchestrator.control import make_spec
from tests.support.orchestrator.launcher import FakeLauncher
from tests.support.orchestrator.run_service import METADATA, Service, create, events, wait_for


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
    assert service.workers() == []

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


def test_stop_ends_a_starting_run_and_leaves_no_process(service, spec):
    run = create(service, {**spec, "name": "stopped"})
    deadline = time.monotonic() + 60
    while len(service.family()) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    ended = service.http.post(f"/v1/runs/{run['id']}/stop").json()
    assert (ended["state"], ended["message"]) == ("stopped", "stopped on request")
    assert service.workers() == []
    again = service.http.post(f"/v1/runs/{run['id']}/stop")
    assert (again.status_code, again.json()["state"]) == (200, "stopped")


def test_a_full_disk_is_called_one_and_leaves_no_process(service, spec):
    run = create(service, spec)
    folder = Path(run["run_dir"])
    (folder / f".summary.json.{os.uname().nodename}-{service.process.pid}.part").symlink_to("/dev/full")
    wait_for(service, 3)
    end = service.http.post(f"/v1/runs/{run['id']}/stop").json()
    assert end["state"] == "failed"
    assert "summary.json cannot be written: the disk is full" in end["message"]
    assert service.workers() == []


def test_a_run_that_was_stopped_keeps_all_it_has_on_a_server_of_others_until_it_is_purged(spec, tmp_path, valkey):
    service = Service(tmp_path, REDIS_URL=valkey.url)
    try:
        run = create(service, spec)
        wait_for(service, 3)
        assert service.http.post(f"/v1/runs/{run['id']}/stop").json()["state"] == "stopped"
        with Redis.from_url(valkey.url) as client:
            left = {key.decode().removeprefix(f"dapo:{{{run['id']}}}:") for key in client.scan_iter()}
            assert {"run", "events", "epoch:orchestrator"} <= left
            assert service.http.post(f"/v1/runs/{run['id']}/purge").status_code == 204
            assert not list(client.scan_iter())
    finally:
        service.close()


def test_a_run_that_another_process_drives_is_not_purged(tmp_path, valkey):
    folder = tmp_path / "runs" / "theirs"
    identity = RunIdentity("theirs", "2026-01-02T03:04:05.000+00:00")
    recorder = Recorder.create(folder, make_spec(tmp_path, staleness=1), identity)
    (folder / "redis").mkdir()
    key = "dapo:{theirs}:run"
    service = RunService(FakeLauncher(), state_dir=tmp_path, redis_url=valkey.url)
    with Redis.from_url(valkey.url) as client:
        client.hset(key, "state", "running")
        with pytest.raises(RunConflict, match="goes on, in another run service"):
            asyncio.run(service.purge("theirs"))
        assert client.exists(key)
        assert (folder / "redis").exists()
        recorder.close()
        asyncio.run(service.purge("theirs"))
        assert not client.exists(key)
    assert not (folder / "redis").exists()
    Recorder.reopen(folder, make_spec(tmp_path, staleness=1)).close()  # the purge has let go of the folder


def test_a_redis_that_hangs_does_not_hold_up_the_end(spec, tmp_path, valkey):
    service = Service(tmp_path, REDIS_URL=valkey.url)
    server = psutil.Process(valkey.pid)
    try:
        run = create(service, spec)
        wait_for(service, 3)
        server.suspend()
        assert service.http.post(f"/v1/runs/{run['id']}/stop").json()["state"] == "stopped"
        assert service.workers() == []
        # Another service might have come to lead it, so nothing was written. The stop is made known all the same.
        assert not (Path(run["run_dir"]) / "summary.json").exists()
        server.resume()
        client = redis.Redis.from_url(valkey.url)
        deadline = time.monotonic() + 60
        while client.hget(f"dapo:{{{run['id']}}}:run", "desired") != b"stopped":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        client.close()
        # A renewal of the lease that Redis only now gets to holds for as long as a lease.
        while service.http.get(f"/v1/runs/{run['id']}").json()["state"] != "stopped":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(3)
        assert service.http.get(f"/v1/runs/{run['id']}").json()["state"] == "stopped"
        assert service.workers() == []
    finally:
        server.resume()
        service.close()
