"""`dapo runs watch` of a run whose service is killed, and whose next service goes on with it."""

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dapo.host.ports import free_port
from tests.support.orchestrator.run_service import TOKEN, Service, base_env, create, wait_for
from tests.support.waiting import eventually


def watch(folder: Path, service_port: int, run_id: str, *options: str) -> subprocess.Popen[bytes]:
    """Its output goes to `out` and `notes` in the folder."""
    command = [sys.executable, "-m", "dapo.cli.main", "runs", "watch", run_id, *options]
    env = base_env(DAPO_API_TOKEN=TOKEN, DAPO_URL=f"http://127.0.0.1:{service_port}")
    with (folder / "out").open("wb") as out, (folder / "notes").open("wb") as notes:
        return subprocess.Popen(command, env=env, stdout=out, stderr=notes)


def wait_for_output(folder: Path) -> None:
    asyncio.run(eventually(lambda: (folder / "out").read_text()))


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_watch_outlives_the_service_and_misses_nothing(spec: dict, tmp_path: Path, number: signal.Signals) -> None:
    port = str(free_port())
    first = Service(tmp_path, "--port", port)
    run = create(first, spec)
    wait_for(first, 3)
    process = watch(tmp_path, int(port), run["id"], "--json")
    try:
        wait_for_output(tmp_path)
        first.http.close()
        first.process.send_signal(number)
        first.process.wait(30)
        second = Service(tmp_path, "--port", port)
        try:
            code = process.wait(120)
            notes = (tmp_path / "notes").read_text()
            assert code == 1, notes
            # Its model cannot be loaded: that is its end, under the service that went on with it.
            seen = [json.loads(line) for line in (tmp_path / "out").read_text().splitlines()]
            archived = [json.loads(line) for line in (Path(run["run_dir"]) / "events.jsonl").read_text().splitlines()]
            assert seen == archived
            assert [one["data"]["state"] for one in seen if one["kind"] == "state"][-1] == "failed"
            assert any(one["data"].get("kind") == "resumed" for one in seen)
            assert "Waiting for it until" in notes
        finally:
            second.close()
    finally:
        process.kill()


def test_an_interrupt_ends_the_watch_and_not_the_run(service: Service, spec: dict, tmp_path: Path) -> None:
    run = create(service, spec)
    process = watch(tmp_path, service.ready["port"], run["id"])
    try:
        wait_for_output(tmp_path)
        process.send_signal(signal.SIGINT)
        code = process.wait(60)
        notes = (tmp_path / "notes").read_text()
        assert code == 130, notes
        assert f"run {run['id']} goes on" in notes
        assert "Traceback" not in notes
    finally:
        process.kill()
    assert service.http.post(f"/v1/runs/{run['id']}/stop").json()["state"] in ("stopped", "failed")
