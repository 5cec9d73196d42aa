"""Low-rank adaptation (LoRA, arXiv 2106.09685): W + (α / r) · B A with W frozen; only A and B are trained.

What is exported is merged, under the plain model's names, and so is what generators get, unless the spec serves the
adapter apart (RunTree.serves_adapter). The trained tensors stay as they are.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dapo.spec.tree.training import ALL_LINEAR, LoraSpec

_ADAPTER = "default"
_ADAPTER_FILE = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class ServedWeight:
    """One weight as generators and exports get it. `parameters` are what `value` reads: under ZeRO 3 gather them first.

    The first of them has the weight's whole shape and its dtype.
    """

    parameters: list[nn.Parameter]
    delta: Callable[[str], Tensor] | None = None
    """Gives an adapter's (α / r) · B A, in the shape of the weight. None where the weight is served as it is."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The whole shape, also where ZeRO 3 has cut the parameter up."""
        return tuple(getattr(self.parameters[0], "ds_shape", self.parameters[0].shape))

    @property
    def dtype(self) -> torch.dtype:
        return self.parameters[0].dtype

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    @torch.no_grad()
    def value(self, rounding: "Rounding | None" = None) -> Tensor:
        """The weight: the parameter itself, or a new tensor with the adapter added in float32. `rounding` is told what
        its dtype keeps of that."""
        weight = self.parameters[0].detach()
        if self.delta is None:
            return weight
        delta = self.delta(_ADAPTER).float()
        merged = (weight.float() + delta).to(weight.dtype)
        if rounding is not None:
            rounding.add(delta, merged.float() - weight.float() - delta)
        return merged


@dataclass(slots=True)
class Rounding:
    """How much of an adapter is left in weights that it was merged into: 1 − Σ error² / Σ update², over all of them.

    In [0, 1]: 1 keeps every update as it is, 0 none at all. 1 where there is no update yet. The error is no larger than
    the update where the frozen weight is one of those that are rounded to; elsewhere its own rounding counts, too.
    """

    update: float = 0.0
    error: float = 0.0

    def add(self, update: Tensor, error: Tensor) -> None:
        self.update += float(update.square().sum())
        self.error += float(error.square().sum())

    @property
    def surviving_share(self) -> float:
        return max(0.0, 1 - self.error / self.update) if self.update else 1.0


def add_lora(causal: PreTrainedModel, lora: LoraSpec, seed: int) -> None:
    """Freeze `causal` and put adapters beside the layers that `lora` names; at first they change nothing (B = 0).

    Does nothing where `lora.rank` is none. Raises ValueError when the model has no such layers, or they are embeddings.
    """
    if lora.rank is None:
        return
    # Seconds to import, and few runs need it.
    from peft import LoraConfig, inject_adapter_in_model

    wanted = lora.modules[0] if lora.modules == [ALL_LINEAR] else lora.modules
    _require_layers(causal, lora)
    config = LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=wanted)
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            inject_adapter_in_model(config, causal, adapter_name=_ADAPTER)
    except ValueError as error:
        raise ValueError(f"lora.target_modules {lora.target_modules}: {error}") from error
    embeddings = (causal.get_input_embeddings(), causal.get_output_embeddings())
    if any(hasattr(embedding, "base_layer") for embedding in embeddings):
        raise ValueError(
            f"lora.target_modules {lora.target_modules}: adapters of the embeddings cannot be trained here; name other "
            "layers, or all-linear"
        )


def _require_layers(causal: PreTrainedModel, lora: LoraSpec) -> None:
    """Raises ValueError for a name that no layer has or ends with: PEFT passes over it where others match."""
    layers = [f".{name}" for name, _ in causal.named_modules()]
    wanted = set(lora.modules) - {ALL_LINEAR}
    if missing := sorted(name for name in wanted if not any(layer.endswith(f".{name}") for layer in layers)):
        linear = {n.rpartition(".")[2] for n, one in causal.named_modules() if isinstance(one, nn.Linear | Conv1D)}
        raise ValueError(
            f"lora.target_modules {lora.target_modules}: the model has no layer {', '.join(missing)}. Its linear "
            f"layers are {', '.join(sorted(linear))}"
        )


def served_weights(causal: PreTrainedModel) -> dict[str, ServedWeight]:
    """The model's weights by their plain Hugging Face names, adapters merged; tied weights appear once."""
    served = {}
    for name, parameter in causal.named_parameters():
        path, _, leaf = name.rpartition(".base_layer.")
        if path and leaf == "weight":
            layer = causal.get_submodule(path)
            adapter = [one for part, one in layer.named_parameters() if part.startswith("lora_")]
            served[f"{path}.{leaf}"] = ServedWeight([parameter, *adapter], layer.get_delta_weight)
        elif ".lora_" not in name:
            served[f"{path}.{leaf}" if path else name] = ServedWeight([parameter])
    return served


def adapter_weights(causal: PreTrainedModel) -> dict[str, ServedWeight]:
    """What is trained under LoRA, by PEFT's names without their prefix: LAYER.lora_A.weight, LAYER.lora_B.weight."""
    return {
        name.replace(f".{_ADAPTER}.", "."): ServedWeight([parameter])
        for name, parameter in causal.named_parameters()
        if ".lora_" in name
    }


def write_adapter(directory: Path, lora: LoraSpec, base: str, weights: dict[str, Tensor]) -> None:
    """An adapter as PEFT loads it: `weights` as `adapter_weights` names them, for the model in `base`."""
    from peft import LoraConfig

    layers = {name.partition(".lora_")[0].rpartition(".")[2] for name in weights}
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=sorted(layers),
        base_model_name_or_path=base,
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    config.save_pretrained(directory)
    save_file({f"base_model.model.{name}": tensor for name, tensor in weights.items()}, directory / _ADAPTER_FILE)
