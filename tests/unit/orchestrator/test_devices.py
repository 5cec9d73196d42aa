"""GPUs are lent to one run at a time, over all run services of a machine."""

import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dapo.host.devices import Gpu
from dapo.spec.workloads import Workload, plan_workloads
from services.orchestrator.launch import devices as devices_module
from services.orchestrator.launch.devices import DeviceAllocator
from services.orchestrator.launch.launcher import LaunchError, RunTarget
from services.orchestrator.launch.local import _environment
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
import tempfile
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


def test_a_run_that_has_fewer_workers_leaves_its_gpus_to_others(tmp_path: Path) -> None:
    devices, others = (DeviceAllocator(("0", "1", "2", "3"), tmp_path) for _ in range(2))
    assert (devices.total, devices.free()) == (4, 4)
    grown = devices.assign("r", plan_workloads(spec(resources__generator__replicas=3)))
    (worker,) = map(os.dup, devices.locks("r", grown["generator-2"]))
    assert (devices.free(), others.free()) == (0, 0)
    left = devices.assign("r", plan_workloads(spec()))
    devices.keep("r", lent(left))
    # The GPU of a worker that is not gone yet is its own.
    assert (devices.free(), others.free()) == (1, 1)
    os.close(worker)
    assert (devices.free(), others.free()) == (2, 2)
    assert lent(others.assign("other", plan_workloads(spec()))) == {"2", "3"}
    assert (devices.free(), others.free()) == (0, 0)


def with_an_evaluator(generators: int) -> list[Workload]:
    sets = {"a": {"path": "a.jsonl"}}
    return plan_workloads(
        spec(evaluation__dedicated_generator=True, evaluation__sets=sets, resources__generator__replicas=generators)
    )


def test_a_worker_that_stays_keeps_its_gpu_whoever_comes_and_goes(tmp_path: Path) -> None:
    devices = DeviceAllocator(("0", "1", "2", "3", "4"), tmp_path)
    first = devices.assign("r", with_an_evaluator(1))
    assert devices.assign("r", with_an_evaluator(3)) == {**first, "generator-1": ("3",), "generator-2": ("4",)}
    assert devices.assign("r", with_an_evaluator(1)) == first
    assert devices.assign("r", with_an_evaluator(2)) == {**first, "generator-1": ("3",)}
    # All are in use: who has one of its own does not share it because of others.
    crowded = devices.assign("r", with_an_evaluator(4))
    assert {worker: crowded[worker] for worker in first} == first
    assert crowded["generator-3"] == ("0", "1", "2", "3", "4")


@given(st.lists(st.integers(1, 6), min_size=2, max_size=6))
def test_workers_that_stay_keep_their_gpus_and_none_is_with_two(counts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        devices = DeviceAllocator([str(number) for number in range(8)], Path(folder))
        before: dict[str, tuple[str, ...]] = {}
        for count in counts:
            after = devices.assign("r", with_an_evaluator(count))
            assert len(lent(after)) == len(after) == count + 2
            assert all(after[worker] == before[worker] for worker in before.keys() & after.keys())
            before = after
        devices.release("r")


def test_a_dedicated_generator_takes_a_share(tmp_path: Path) -> None:
    made = spec(evaluation__dedicated_generator=True, evaluation__sets={"a": {"path": "a.jsonl"}})
    assigned = DeviceAllocator(("0", "1", "2"), tmp_path).assign("r", plan_workloads(made))
    assert assigned == {"learner-0": ("0",), "generator-0": ("1",), "evaluation-generator-0": ("2",)}


UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
NAMES = [
    (UUID, "GPU-1e6a7b2c-0000-4000-8000-000000000001"),
    ("GPU-89", "GPU-1e"),
    ("MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/1/0", "MIG-GPU-8932f937-d72c-4106-c12f-20bd9faed9f6/2/0"),
    ("MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f", "MIG-0a9a4b2c-42e4-5de3-91c7-45d71c87eb3f"),
]


@pytest.mark.parametrize("names", NAMES)
def test_gpus_with_names_are_counted_and_handed_on_as_they_are(tmp_path: Path, names: tuple[str, str]) -> None:
    plan = plan_workloads(spec())
    assigned = DeviceAllocator(names, tmp_path).assign("r", plan)
    assert assigned == {"learner-0": names[:1], "generator-0": names[1:]}
    for workload in plan:
        given = assigned.get(workload.worker_ids[0])
        environment = _environment(RunTarget("r", "redis://h", None, tmp_path), workload, 0, given, "127.0.0.1")
        assert environment["CUDA_VISIBLE_DEVICES"] == ",".join(given or ())


def test_a_gpu_is_one_gpu_by_whichever_name_it_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices_module, "driver_gpus", lambda: [Gpu("H100", "GPU-aa-1"), Gpu("H100", UUID)])
    workloads = plan_workloads(spec(resources__learner__device="cpu"))
    by_number = DeviceAllocator(("1",), tmp_path)
    assert by_number.assign("r", workloads) == {"generator-0": ("1",)}
    for name in (UUID, "GPU-8932"):
        with pytest.raises(LaunchError, match="0 are free"):
            DeviceAllocator((name,), tmp_path).assign("other", workloads)
    assert DeviceAllocator(("0",), tmp_path).assign("other", workloads) == {"generator-0": ("0",)}


def test_another_user_can_ask_for_a_lock_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        DeviceAllocator(("0",), tmp_path).assign("r", plan_workloads(spec()))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "0.lock").stat().st_mode) == 0o644
