"""The machine's own GPUs, as the platform names and lends them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from dapo.host.devices import device_names, driver_gpus, visible_cuda_devices  # noqa: E402
from dapo.spec import RunSpec  # noqa: E402
from dapo.spec.workloads import plan_workloads  # noqa: E402
from services.orchestrator.launch.devices import DeviceAllocator  # noqa: E402
from services.orchestrator.launch.launcher import LaunchError  # noqa: E402


def uuids() -> list[str]:
    """As torch has them from the driver, in CUDA's order."""
    return [f"GPU-{torch.cuda.get_device_properties(index).uuid}" for index in range(torch.cuda.device_count())]


def seen_by_a_process(visible: str) -> tuple[list[str], list[str]]:
    """(UUIDs, names) that a process finds under this CUDA_VISIBLE_DEVICES, by torch and by the platform."""
    code = (
        "from tests.gpu.test_devices import uuids; from dapo.host.devices import device_names;"
        "print(*uuids(), sep=','); print(*device_names(), sep=',')"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": visible}
    lines = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    found, names = (line.split(",") if line else [] for line in lines)
    return found, names


def test_all_gpus_are_found_without_torch() -> None:
    assert len(visible_cuda_devices()) == torch.cuda.device_count()


def test_the_driver_tells_the_uuids_that_cuda_knows() -> None:
    """Where it does not tell (some containers hide /proc/driver/nvidia), names stay as they were given."""
    gpus = driver_gpus()
    if not gpus:
        pytest.skip("the driver's list of GPUs is hidden here")
    assert set(uuids()) <= {gpu.uuid for gpu in gpus}


@pytest.mark.parametrize("form", ["index", "uuid", "prefix"])
def test_a_worker_sees_the_gpu_that_it_is_lent_under_any_name(form: str) -> None:
    wanted = uuids()[0]
    visible = {"index": "0", "uuid": wanted, "prefix": wanted[:12]}[form]
    found, names = seen_by_a_process(visible)
    assert found == [wanted]
    if driver_gpus():
        assert [name.partition("/")[2] for name in names] == [wanted]
    assert seen_by_a_process("") == ([], [])


def test_a_gpu_is_lent_once_whatever_it_is_called(tmp_path: Path) -> None:
    spec = RunSpec.model_validate({"model": {"path": "m"}, "data": {"path": "d.jsonl"}})
    workloads = plan_workloads(spec)
    by_index = DeviceAllocator(visible_cuda_devices(), tmp_path)
    lent = by_index.assign("first", workloads)
    assert set(lent) == {"learner-0", "generator-0"}
    assert len(device_names()) == torch.cuda.device_count()
    names = uuids() if driver_gpus() else visible_cuda_devices()
    others = DeviceAllocator(names, tmp_path)
    if torch.cuda.device_count() < 4:
        with pytest.raises(LaunchError, match="GPUs"):
            others.assign("second", workloads)
    by_index.release("first")
    assert set(others.assign("second", workloads)) == {"learner-0", "generator-0"}
    others.release("second")


def test_deepspeed_reads_a_gpus_free_memory_under_a_uuid() -> None:
    code = (
        "from services.learner.distributed import free_memory_of_any_device; free_memory_of_any_device();"
        "from deepspeed.accelerator import get_accelerator; print(get_accelerator().available_memory())"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": uuids()[0]}
    out = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert int(out.stdout.split()[-1]) > 2**30
