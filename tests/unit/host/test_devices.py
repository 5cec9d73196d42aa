"""GPUs by index, UUID and MIG device, as CUDA_VISIBLE_DEVICES names them."""

from pathlib import Path

import pytest
from torch.cuda import _parse_visible_devices

from dapo.host.devices import (
    DeviceError,
    Gpu,
    device_identity,
    device_names,
    driver_gpus,
    parse_visible_devices,
    visible_cuda_devices,
)

UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
MIG = "MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"
OLD_MIG = f"MIG-{UUID}/1/0"


@pytest.mark.parametrize(
    ("allowed", "devices"),
    [
        ("", ()),
        ("-1", ()),
        ("none", ()),
        ("NoDevFiles", ()),
        ("0", ("0",)),
        ("2, 3", ("2", "3")),
        ("0,-1,1", ("0",)),
        ("0,,1", ("0",)),
        (UUID, (UUID,)),
        ("GPU-8932,GPU-1e", ("GPU-8932", "GPU-1e")),
        (f"{MIG},{OLD_MIG}", (MIG, OLD_MIG)),
        ("GPU-ab,1", ("GPU-ab",)),
        ("1,GPU-ab", ("1",)),
        (f"{UUID},{MIG}", (UUID,)),
    ],
)
def test_visible_devices_are_those_that_cuda_takes(
    monkeypatch: pytest.MonkeyPatch, allowed: str, devices: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert visible_cuda_devices() == devices
    assert tuple(map(str, _parse_visible_devices())) == devices


@pytest.mark.parametrize("allowed", ["0,0", "0,1,0", f"{UUID},{UUID}", f"{MIG},{MIG}"])
def test_a_gpu_named_twice_is_refused_in_words(allowed: str) -> None:
    with pytest.raises(DeviceError, match=r"CUDA_VISIBLE_DEVICES=.* twice.*Name each once"):
        parse_visible_devices(allowed)


def test_two_processes_see_that_they_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dapo.host.devices.driver_gpus", lambda: [Gpu("H100", "GPU-aa-1"), Gpu("H100", UUID)])
    seen = []
    for name in ("1", UUID, "GPU-8932"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", name)
        seen += device_names()
    (name,) = set(seen)
    assert name.endswith(f"/{UUID}")


def test_a_name_that_is_not_certain_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    gpus = [Gpu("A100", "GPU-ab-1"), Gpu("H100", "GPU-ab-2")]
    for name in ("0", "GPU-ab", "GPU-ff", "7", MIG, OLD_MIG):
        assert device_identity(name, gpus) == name
        assert device_identity(name, []) == name
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
    assert device_identity("1", gpus) == "GPU-ab-2"


def test_the_drivers_gpus_are_read_in_the_order_of_their_addresses(tmp_path: Path) -> None:
    for address, uuid in (("0000:81:00.0", "GPU-b"), ("0000:01:00.0", "GPU-a")):
        (tmp_path / address).mkdir()
        (tmp_path / address / "information").write_text(
            f"Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t 41\nGPU UUID: \t {uuid}\nBus Location: \t {address}\n"
        )
    assert driver_gpus(tmp_path) == [Gpu("NVIDIA H100 80GB HBM3", "GPU-a"), Gpu("NVIDIA H100 80GB HBM3", "GPU-b")]
    assert driver_gpus(tmp_path / "absent") == []
