"""The learner on a GPU that is known by UUID or as a MIG device."""

import pytest

pytest.importorskip("deepspeed")

import torch
from deepspeed.accelerator import cuda_accelerator
from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator

from services.learner.distributed import free_memory_of_any_device


@pytest.mark.parametrize("visible", ["GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "MIG-GPU-8932f937/1/0", "3"])
def test_deepspeed_learns_the_free_memory_of_a_gpu_of_any_name(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(cuda_accelerator, "pynvml", object())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (7 + device, 80))
    # What is patched here is put back afterwards.
    monkeypatch.setattr(CUDA_Accelerator, "available_memory", CUDA_Accelerator.available_memory)
    free_memory_of_any_device()
    assert CUDA_Accelerator().available_memory(1) == 8
