"""The first process of a pod, with real processes: it runs its worker once, and is a good parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.pod import PodError, exit_code, identify
from tests.support.paths import REPO

WORKER = """
import os, signal, subprocess, sys, time
print(os.environ["DAPO_WORKER_ID"], os.environ["DAPO_REPLICA"], "DAPO_API_TOKEN" in os.environ, flush=True)
how = os.environ["HOW"]
if how == "ends":
    sys.exit(3)
if how == "is killed":
    os.kill(os.getpid(), signal.SIGKILL)
if how == "leaves a child":
    subprocess.Popen(["sleep", "30"])
    sys.exit(0)
def stop(number, frame):
    print("drained", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("working", flush=True)
time.sleep(30)
"""


@pytest.fixture
def pod(tmp_path: Path) -> Mapping[str, str]:
    """The environment of a pod whose worker is the program above."""
    (tmp_path / "worker.py").write_text(WORKER)
    (tmp_path / "pod").mkdir()
    return {
        **os.environ,
        "PYTHONPATH": f"{tmp_path}:{REPO}",
        "DAPO_WORKLOAD": "generator",
        "DAPO_POD": "toy-12345678-generator-2",
        "DAPO_POD_FOLDER": str(tmp_path / "pod"),
        "DAPO_RUN_DIR": str(tmp_path / "run"),
        "DAPO_API_TOKEN": "the service's",
    }


def start(pod: Mapping[str, str], how: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "dapo.pod", "worker"]
    return subprocess.Popen(
        command, env={**pod, "HOW": how}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.parametrize(("how", "code"), [("ends", 3), ("is killed", 137)])
def test_the_worker_ends_as_its_container_does(how: str, code: int, pod: Mapping[str, str]) -> None:
    first = start(pod, how)
    told, _ = first.communicate(timeout=30)
    assert first.returncode == code
    assert told == "generator-2 2 False\n"
    assert Path(pod["DAPO_RUN_DIR"], "logs", "generator-2.log").read_text() == told


def test_a_container_that_is_started_again_runs_no_worker(pod: Mapping[str, str]) -> None:
    start(pod, "ends").communicate(timeout=30)
    again = start(pod, "ends")
    assert again.stdout is not None
    assert "generator-2 has run in this pod (exited with code 3)" in again.stdout.readline()
    assert again.poll() is None, "it waits until the pod is deleted"
    again.send_signal(signal.SIGTERM)
    assert again.wait(timeout=10) == 0
    log = Path(pod["DAPO_RUN_DIR"], "logs", "generator-2.log").read_text()
    assert log.count("generator-2 2") == 1


def test_the_worker_is_told_to_end_and_has_its_time(pod: Mapping[str, str]) -> None:
    process = start(pod, "works")
    assert process.stdout is not None
    assert process.stdout.readline() == "generator-2 2 False\n"
    assert process.stdout.readline() == "working\n"
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=10)
    assert (told, process.returncode) == ("drained\n", 0)


def test_what_a_worker_leaves_behind_does_not_keep_the_container(pod: Mapping[str, str]) -> None:
    began = time.monotonic()
    process = start(pod, "leaves a child")
    assert process.wait(timeout=20) == 0
    assert time.monotonic() - began < 15


def test_a_job_says_which_replica_a_pod_is(pod: Mapping[str, str]) -> None:
    told, _ = start({**pod, "JOB_COMPLETION_INDEX": "5"}, "ends").communicate(timeout=30)
    assert told.startswith("generator-5 5")


@given(st.integers(0, 10_000), st.sampled_from(["generator", "evaluation-generator", "learner"]))
def test_the_name_of_a_pod_says_which_replica_it_is(index: int, workload: str) -> None:
    of_a_set = {"DAPO_WORKLOAD": workload, "DAPO_POD": f"run-12345678-{workload}-{index}"}
    of_a_job = {"DAPO_WORKLOAD": workload, "DAPO_POD": "x-rank-0-abcde", "JOB_COMPLETION_INDEX": str(index)}
    wanted = {"DAPO_WORKER_ID": f"{workload}-{index}", "DAPO_REPLICA": str(index)}
    assert identify(of_a_set) == identify(of_a_job) == wanted


@pytest.mark.parametrize("environment", [{}, {"DAPO_WORKLOAD": "generator"}, {"DAPO_WORKLOAD": "g", "DAPO_POD": "g-x"}])
def test_what_is_missing_is_named(environment: dict[str, str]) -> None:
    with pytest.raises(PodError, match="DAPO_"):
        identify(environment)


@given(st.integers(-64, 255))
def test_a_signal_is_told_as_a_shell_does(code: int) -> None:
    assert exit_code(code) == (code if code >= 0 else 128 - code)
