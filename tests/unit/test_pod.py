"""The first process of a pod, with real processes: it runs its worker once, and is a good parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.pod import PodError, ends_message, exit_code, identify, read_ends, replicas_of, share_gpus
from tests.support.paths import REPO

WORKER = """
import os, signal, subprocess, sys, time
print(os.environ["DAPO_WORKER_ID"], os.environ["DAPO_REPLICA"], "DAPO_API_TOKEN" in os.environ, flush=True)
how = os.environ.get("HOW_" + os.environ["DAPO_REPLICA"], os.environ["HOW"])
if how == "shows its GPUs":
    print("sees", os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
    sys.exit(0)
if how == "is deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(30)
if how == "ends later":
    time.sleep(1)
    sys.exit(3)
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


def start(pod: Mapping[str, str], how: str, **others: str) -> "subprocess.Popen[str]":
    """`others`: HOW_4 is how worker 4 goes on."""
    command = [sys.executable, "-m", "dapo.pod", "worker"]
    environment = {**pod, "HOW": how, **others}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


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


@pytest.fixture
def ranks(pod: Mapping[str, str], tmp_path: Path) -> Mapping[str, str]:
    """The second pod of a learner with three ranks in each."""
    names = {"DAPO_WORKLOAD": "learner", "DAPO_POD": "toy-12345678-learner-1", "DAPO_POD_WORKERS": "3"}
    return {**pod, **names, "DAPO_POD_MESSAGE": str(tmp_path / "message")}


def message(ranks: Mapping[str, str]) -> dict[str, int] | None:
    return read_ends(Path(ranks["DAPO_POD_MESSAGE"]).read_text())


def log_of(pod: Mapping[str, str], worker: str) -> str:
    return Path(pod["DAPO_RUN_DIR"], "logs", f"{worker}.log").read_text()


def test_each_worker_of_a_pod_has_a_name_a_log_and_gpus_of_its_own(ranks: Mapping[str, str]) -> None:
    process = start({**ranks, "CUDA_VISIBLE_DEVICES": "GPU-a,GPU-b,GPU-c"}, "shows its GPUs")
    told, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    logs = {
        f"learner-{index}": f"learner-{index} {index} False\nsees GPU-{gpu}\n"
        for index, gpu in zip((3, 4, 5), "abc", strict=True)
    }
    assert {worker: log_of(ranks, worker) for worker in logs} == logs
    assert sorted(told.splitlines()) == sorted("".join(logs.values()).splitlines())
    assert message(ranks) == dict.fromkeys(logs, 0)


@pytest.mark.parametrize(("how", "code"), [("ends", 3), ("is killed", 137)])
def test_a_worker_that_fails_ends_its_neighbours_and_is_the_one_that_is_told_of(
    how: str, code: int, ranks: Mapping[str, str]
) -> None:
    began = time.monotonic()
    process = start(ranks, "works", HOW_4=how)
    process.communicate(timeout=30)
    assert (process.returncode, message(ranks)) == (code, {"learner-4": code})
    assert time.monotonic() - began < 15
    again = start(ranks, "ends")
    assert again.stdout is not None
    told = again.stdout.readline()
    assert "learner-3, learner-4, learner-5 have run in this pod" in told
    assert f"learner-4 {'exited with code 3' if code == 3 else 'was ended by signal 9'}" in told
    again.send_signal(signal.SIGTERM)
    assert again.wait(timeout=10) == 0
    assert log_of(ranks, "learner-4").count("learner-4 4") == 1


def test_a_neighbour_that_does_not_hear_is_killed(ranks: Mapping[str, str]) -> None:
    began = time.monotonic()
    process = start(ranks, "is deaf", HOW_5="ends later")
    process.communicate(timeout=25)
    assert (process.returncode, message(ranks)) == (3, {"learner-5": 3})
    assert time.monotonic() - began < 20


def test_a_pod_that_is_taken_away_ends_all_its_workers_in_their_time(ranks: Mapping[str, str]) -> None:
    process, working = start(ranks, "works"), 0
    assert process.stdout is not None
    for line in process.stdout:
        working += line == "working\n"
        if working == 3:
            break
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=10)
    assert (told.count("drained"), process.returncode) == (3, 0)
    assert message(ranks) == {"learner-3": 0, "learner-4": 0, "learner-5": 0}


def test_a_job_says_which_replica_a_pod_is(pod: Mapping[str, str]) -> None:
    told, _ = start({**pod, "JOB_COMPLETION_INDEX": "5"}, "ends").communicate(timeout=30)
    assert told.startswith("generator-5 5")


@given(st.integers(0, 10_000), st.sampled_from(["generator", "evaluation-generator", "learner"]))
def test_the_name_of_a_pod_says_which_replica_it_is(index: int, workload: str) -> None:
    of_a_set = {"DAPO_WORKLOAD": workload, "DAPO_POD": f"run-12345678-{workload}-{index}"}
    of_a_job = {"DAPO_WORKLOAD": workload, "DAPO_POD": "x-rank-0-abcde", "JOB_COMPLETION_INDEX": str(index)}
    wanted = {"DAPO_WORKER_ID": f"{workload}-{index}", "DAPO_REPLICA": str(index)}
    assert identify(of_a_set) == identify(of_a_job) == [wanted]


@given(st.integers(1, 16), st.integers(1, 16))
def test_the_pods_of_a_workload_have_each_of_its_workers_once(pods: int, workers: int) -> None:
    found = [
        int(one["DAPO_REPLICA"])
        for pod in range(pods)
        for one in identify({"DAPO_WORKLOAD": "l", "DAPO_POD": f"x-{pod}", "DAPO_POD_WORKERS": str(workers)})
    ]
    assert found == list(range(pods * workers))
    assert [replica for pod in range(pods) for replica in replicas_of(pod, workers)] == found


@given(st.lists(st.integers(0, 99).map(str), unique=True, max_size=16), st.integers(1, 16))
def test_the_gpus_of_a_container_are_shared_evenly(devices: list[str], workers: int) -> None:
    shares = share_gpus(devices, workers)
    assert len(shares) == workers
    if len(devices) < workers:
        assert shares == [{}] * workers, "each sees them all"
        return
    seen = [one["CUDA_VISIBLE_DEVICES"].split(",") for one in shares]
    assert {len(one) for one in seen} == {len(devices) // workers}
    assert list(chain.from_iterable(seen)) == devices[: len(devices) // workers * workers], "no GPU is with two"


@given(st.dictionaries(st.from_regex(r"learner-\d{1,3}", fullmatch=True), st.integers(-64, 255), min_size=1))
def test_what_a_container_leaves_behind_tells_how_each_worker_ended(ends: dict[str, int]) -> None:
    assert read_ends(ends_message(ends)) == {worker: exit_code(code) for worker, code in ends.items()}


def test_of_the_workers_of_a_large_pod_the_message_is_whole() -> None:
    """A node cuts it after 4096 bytes."""
    assert len(ends_message({f"learner-{index}": -9 for index in range(1000, 1064)})) < 4096


@pytest.mark.parametrize("text", [None, "", "killed", "[1]", "{}", '{"learner-0": "1"}', '{"learner-0": true}', "1"])
def test_any_other_message_tells_nothing(text: str | None) -> None:
    assert read_ends(text) is None


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"DAPO_WORKLOAD": "generator"},
        {"DAPO_WORKLOAD": "g", "DAPO_POD": "g-x"},
        {"DAPO_WORKLOAD": "g", "DAPO_POD": "g-0", "DAPO_POD_WORKERS": "0"},
        {"DAPO_WORKLOAD": "g", "DAPO_POD": "g-0", "DAPO_POD_WORKERS": "many"},
    ],
)
def test_what_is_missing_is_named(environment: dict[str, str]) -> None:
    with pytest.raises(PodError, match="DAPO_"):
        identify(environment)


@given(st.integers(-64, 255))
def test_a_signal_is_told_as_a_shell_does(code: int) -> None:
    assert exit_code(code) == (code if code >= 0 else 128 - code)
