"""SGLang on CPUs without AMX, through its interface for platforms outside its tree.

`pyproject.toml` registers `activate` in the entry-point group `sglang.srt.platforms`; SGLang calls it in each of its
processes. Where CUDA is present, `activate` returns None and SGLang uses its own platform.
"""

from typing import TYPE_CHECKING, Any

import torch
from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import SRTPlatform

if TYPE_CHECKING:
    from sglang.srt.model_executor.model_runner import ModelRunner

_ATTENTION_BACKEND = "torch_native"


def activate() -> str | None:
    """The platform's qualified name, or None where another device serves."""
    return None if torch.cuda.is_available() else "services.generator.cpu.platform:CpuPlatform"


class CpuPlatform(CpuDeviceMixin, SRTPlatform):  # type: ignore[misc]
    """CPUs without AMX: page size 1, an ordinary key/value pool, batched attention, no pinned memory, no graphs."""

    _enum = PlatformEnum.OOT

    def is_pin_memory_available(self, device: Any = None) -> bool:
        return False

    def get_default_attention_backend(self) -> str:
        return _ATTENTION_BACKEND

    def get_mha_kv_pool_cls(self) -> type:
        from sglang.srt.mem_cache.memory_pool import MHATokenToKVPool

        return MHATokenToKVPool

    def get_paged_allocator_cls(self) -> type:
        from sglang.srt.mem_cache.allocator.token import TokenToKVPoolAllocator

        class SingleTokenAllocator(TokenToKVPoolAllocator):  # type: ignore[misc]
            def __init__(self, size: int, *, page_size: int, **pool: Any) -> None:
                if page_size != 1:
                    raise ValueError(f"page_size {page_size}: the CPU platform serves page size 1 only")
                super().__init__(size, **pool)

        return SingleTokenAllocator

    def init_backend(self) -> None:
        """Replace the `torch_native` backend, which goes sequence by sequence, by BatchedAttention; register `ops`."""
        from sglang.srt.layers.attention.attention_registry import register_attention_backend

        from services.generator.cpu import ops
        from services.generator.cpu.attention import BatchedAttention
        from services.generator.cpu.pinning import pin_nothing
        from services.generator.engine.adapter_start import started_with_adapter

        ops.register(self.get_dispatch_key_name())
        if started_with_adapter():
            pin_nothing()

        @register_attention_backend(_ATTENTION_BACKEND)
        def create(runner: "ModelRunner") -> BatchedAttention:
            return BatchedAttention(runner)
