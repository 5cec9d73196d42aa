"""The policy as a LoRA adapter beside SGLang's base model: what its server is started with. See adapter.py."""

import json
import os
from pathlib import Path

from safetensors.numpy import save_file

from dapo.spec import RunSpec
from dapo.spec.tree.training import ADAPTER_MODULES, ALL_LINEAR, LoraSpec

ADAPTER = "policy"
"""Name under which requests ask for it."""
_SWITCH = "DAPO_SERVES_ADAPTER"
"""Set in SGLang servers that a generator starts with an adapter; no other server is touched."""


def adapter_modules(lora: LoraSpec) -> list[str]:
    """Names of the layers that have an adapter."""
    return list(ADAPTER_MODULES) if lora.modules == [ALL_LINEAR] else lora.modules


def write_empty_adapter(directory: Path, lora: LoraSpec) -> None:
    """An adapter in PEFT's format for the server to start with. It has no tensors, so it changes nothing."""
    config = {
        "peft_type": "LORA",
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "target_modules": adapter_modules(lora),
    }
    (directory / "adapter_config.json").write_text(json.dumps(config))
    # safetensors' form for torch would load that.
    save_file({}, directory / "adapter_model.safetensors")


def adapter_flags(spec: RunSpec, directory: Path, device: str) -> list[str]:
    """SGLang's options for the adapter in `directory`."""
    flags = [
        *("--lora-paths", f"{ADAPTER}={directory}"),
        *("--max-lora-rank", str(spec.lora.rank)),
        *("--lora-target-modules", *adapter_modules(spec.lora)),
        # One for the adapter, one for requests without, as SGLang's own warm-up.
        *("--max-loras-per-batch", "2"),
    ]
    return [*flags, "--lora-backend", "torch_native"] if device == "cpu" else flags


def adapter_environment() -> dict[str, str]:
    """What makes `activate` act in the server."""
    return {_SWITCH: "1"}


def started_with_adapter() -> bool:
    """Whether this process belongs to an SGLang server that a generator has started with an adapter."""
    return os.environ.get(_SWITCH) == "1"
