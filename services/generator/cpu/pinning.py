"""Pinned memory on machines without an accelerator: there is none, and SGLang's LoRA asks for it all the same."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor


def _without_pinning(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(make)
    def call(*arguments: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        return make(*arguments, **options)

    return call


def pin_nothing() -> None:
    """In this process, give ordinary memory to those who ask for pinned memory. Call it before layers are built."""
    torch.tensor = _without_pinning(torch.tensor)
    torch.zeros = _without_pinning(torch.zeros)
    torch.Tensor.pin_memory = lambda self, device=None: self
