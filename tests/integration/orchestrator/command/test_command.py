"""`dapo train` as a client of the run service that it starts, with a run whose model cannot be loaded."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dapo.host.processes import family
from tests.support.orchestrator.run_service import base_env


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
    assert "dapo serve) refuses model.path, data.path as given here, unless its policy allows it" in out
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
    assert "stopping: a checkpoint is written first…" in out
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
