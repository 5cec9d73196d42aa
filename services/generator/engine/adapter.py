"""The policy as a LoRA adapter beside SGLang's base model: how updates reach it, in SGLang's processes.

SGLang loads adapters from files or over HTTP, under names that must be new. Those of dapo come as other weights do, by
broadcasts between `begin_weight_update` and `end_weight_update`, and take the place of the version before. To that end
`pyproject.toml` registers `activate` in the entry-point group `sglang.srt.plugins`; SGLang calls it in each process.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from services.generator.engine.adapter_start import started_with_adapter

if TYPE_CHECKING:
    from sglang.srt.lora.lora_manager import LoRAManager

_UPDATER = "sglang.srt.model_executor.model_runner_components.weight_updater.WeightUpdater"


def activate() -> None:
    """Have SGLang's weight updates take adapters."""
    if not started_with_adapter():
        return
    from sglang.srt.plugins.hook_registry import HookRegistry, HookType

    receiver = AdapterReceiver()
    HookRegistry.register(f"{_UPDATER}.load_weights_from_distributed", receiver.load, HookType.AROUND)
    HookRegistry.register(f"{_UPDATER}.end_weight_update", receiver.finish, HookType.AROUND)


class AdapterReceiver:
    """Hooks around SGLang's weight updates: the tensors of an adapter are kept until all have come, then put in place.

    Generation is paused meanwhile. Requests in flight go on with the new adapter, as they do with other weights.
    """

    def __init__(self) -> None:
        self._tensors: dict[str, Tensor] = {}

    def load(
        self, original: Callable[..., tuple[bool, str]], updater: Any, named_tensors: Sequence[tuple[str, Tensor]]
    ) -> tuple[bool, str]:
        """In place of `load_weights_from_distributed`."""
        if not any(".lora_" in name for name, _ in named_tensors):
            return original(updater, named_tensors)
        manager = updater.get_model_runner().lora_manager
        unknown = [name for name, _ in named_tensors if not _has_layer(manager, name)]
        if unknown:
            return False, f"SGLang cannot serve an adapter of {unknown[0]}: set lora.serving: merged"
        self._tensors |= dict(named_tensors)
        return True, "kept until the update ends"

    def finish(self, original: Callable[..., None], updater: Any, **options: Any) -> None:
        """In place of `end_weight_update`."""
        original(updater, **options)
        tensors, self._tensors = self._tensors, {}
        if tensors:
            install(updater.get_model_runner().lora_manager, tensors)


def _has_layer(manager: "LoRAManager", name: str) -> bool:
    from sglang.srt.layers.utils import get_layer_id
    from sglang.srt.lora.utils import get_normalized_target_modules

    layer = name.partition(".lora_")[0]
    return get_layer_id(name) is not None and get_normalized_target_modules([layer]) <= set(manager.target_modules)


@torch.no_grad()
def install(manager: "LoRAManager", tensors: Mapping[str, Tensor]) -> None:
    """Replace the weights of the one adapter that `manager` has. Nothing may generate meanwhile."""
    (reference,) = manager.lora_refs.values()
    manager.load_lora_weights_from_tensors(reference, dict(tensors))
    manager.memory_pool.remove_lora(reference.lora_id)
    manager.fetch_new_loras({reference.lora_id})
