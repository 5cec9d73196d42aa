"""GPUs are lent to one run at a time, over all run services of a machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from dapo.spec.workloads import plan_workloads
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.launch.launcher import LaunchError
from tests.support.paths import REPO
from tests.support.spec import spec


def lent(assigned: dict[str, tuple[str, ...]]) -> set[str]:
    return {device for devices in assigned.values() for device in devices}


def test_gpus_are_shared_out_without_overlap(tmp_path: Path) -> None:
    resources = {"generator": {"replicas": 2, "tensor_parallel": 2}, "learner": {"ranks": 2}}
    devices = DeviceAllocator(("a", "b", "c", "d", "e", "f", "g"), tmp_path)
    assert devices.assign("r", plan_workloads(spec(resources=resources))) == {
        "learner-0": ("a",),
        "learner-1": ("b",),
        "generator-0": ("c", "d"),
        "generator-1": ("e", "f"),
    }


def test_a_second_run_gets_other_gpus_and_a_third_is_refused_in_words(tmp_path: Path) -> None:
    devices = DeviceAllocator(("0", "1", "2", "3", "4"), tmp_path)
    first, second = (lent(devices.assign(run, plan_workloads(spec()))) for run in ("first", "second"))
    assert (first, second) == ({"0", "1"}, {"2", "3"})
    with pytest.raises(LaunchError, match="needs 2 of this machine's 5 GPUs, and 1 are free"):
        devices.assign("third", plan_workloads(spec()))
    devices.release("first")
    assert lent(devices.assign("third", plan_workloads(spec()))) == {"0", "1"}


def test_a_run_of_another_service_on_the_machine_gets_other_gpus(tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from dapo.spec.workloads import plan_workloads
from services.orchestrator.launch.devices import DeviceAllocator
from tests.support.spec import spec
devices = DeviceAllocator(("0", "1", "2", "3"), Path({str(tmp_path)!r}))
print(devices.assign("theirs", plan_workloads(spec())), flush=True)
sys.stdin.read()
"""
    ours = DeviceAllocator(("0", "1", "2", "3"), tmp_path)
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=REPO, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert eval(other.stdout.readline()) == {"learner-0": ("0",), "generator-0": ("1",)}
        assert lent(ours.assign("ours", plan_workloads(spec()))) == {"2", "3"}
        other.kill()
    assert lent(ours.assign("more", plan_workloads(spec()))) == {"0", "1"}


def test_too_few_gpus_are_left_to_all_workers_of_the_run(tmp_path: Path) -> None:
    devices = DeviceAllocator(("0",), tmp_path)
    assert devices.assign("r", plan_workloads(spec())) == {"learner-0": ("0",), "generator-0": ("0",)}
    with pytest.raises(LaunchError, match="0 are free"):
        devices.assign("other", plan_workloads(spec()))


def test_what_runs_on_a_cpu_takes_no_gpu(tmp_path: Path) -> None:
    devices = DeviceAllocator(("0", "1"), tmp_path)
    assert devices.assign("r", plan_workloads(spec(resources__learner__device="cpu"))) == {"generator-0": ("0",)}
    assert DeviceAllocator((), tmp_path).assign("r", plan_workloads(spec())) == {}


def test_a_run_that_is_scaled_keeps_its_gpus(tmp_path: Path) -> None:
    devices = DeviceAllocator(("0", "1", "2", "3"), tmp_path)
    devices.assign("r", plan_workloads(spec()))
    grown = devices.assign("r", plan_workloads(spec(resources__generator__replicas=3)))
    assert grown == {"learner-0": ("0",), "generator-0": ("1",), "generator-1": ("2",), "generator-2": ("3",)}


def test_a_dedicated_generator_takes_a_share(tmp_path: Path) -> None:
    made = spec(evaluation__dedicated_generator=True, evaluation__sets={"a": {"path": "a.jsonl"}})
    assigned = DeviceAllocator(("0", "1", "2"), tmp_path).assign("r", plan_workloads(made))
    assert assigned == {"learner-0": ("0",), "generator-0": ("1",), "evaluation-generator-0": ("2",)}
