"""DeepSpeed around one trained network: N times backward, then one step, with exactly the gradient of the summed loss.

DeepSpeed averages gradients over ranks and divides by accumulation steps. Both are undone here (the contribution is
multiplied by the number of ranks; accumulation is left to the caller), so a mini-batch's gradient does not depend on
the number of ranks, the micro-batches or the ZeRO stage.
"""

import math
from typing import Any, Generic, TypeVar

import deepspeed
import torch
from torch import Tensor, nn

from dapo.spec import RunSpec
from dapo.spec.tree.training import OptimizerSpec
from services.learner.distributed import Ranks
from services.learner.model.policy import TrainedModel

Model = TypeVar("Model", bound=TrainedModel)

_OFFLOADED = {
    "none": (),
    "optimizer": ("offload_optimizer",),
    "parameters": ("offload_optimizer", "offload_param"),
}
"""What ZeRO keeps in the host's memory, in DeepSpeed's names, by `training.offload`."""


def rate_factor(step: int, optimizer: OptimizerSpec, steps: int) -> float:
    """Share of the peak learning rate in rollout step `step` (from 0) of `steps`.

    A linear warm-up that is never 0; then constant, or falling so that step `steps`, which is no more, would have
    `final_rate`.
    """
    warmup = optimizer.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    if optimizer.schedule == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - warmup))
    left = 1 - done if optimizer.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return optimizer.final_rate + (1 - optimizer.final_rate) * left


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; biases and norms, which have one dimension, do not."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def deepspeed_config(spec: RunSpec, world_size: int) -> dict[str, Any]:
    bfloat16 = spec.model.dtype == "bfloat16"
    # Stage 1 is stage 0's arithmetic with fp32 master weights, which plain data parallelism lacks in bfloat16.
    stage = max(1, spec.training.zero_stage) if bfloat16 else spec.training.zero_stage
    config: dict[str, Any] = {
        # A count DeepSpeed insists on; gradients do not depend on it.
        "train_micro_batch_size_per_gpu": 1,
        "train_batch_size": world_size,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        # At stage 0 a hook of ours clips, because DeepSpeed would hide the norm there.
        "gradient_clipping": spec.optimizer.gradient_clip if stage else 0.0,
        "zero_optimization": {"stage": stage, "overlap_comm": False},
        "zero_allow_untested_optimizer": True,
        # Torch's AdamW also steps where its state is offloaded; DeepSpeed's own would have to be compiled.
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
    for part in _OFFLOADED[spec.training.offload]:
        config["zero_optimization"][part] = {"device": "cpu"}
    if bfloat16:
        config["bf16"] = {"enabled": True}
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


class LearnerEngine(Generic[Model]):
    """A network and its optimizer on one rank, by DeepSpeed. All ranks call every method in the same order.

    It owns the parameters, the fp32 optimizer state and the gradients; under ZeRO 3 each rank holds a part of them.
    CheckpointStore saves and restores them (services/learner/state.py).
    """

    def __init__(self, module: Model, spec: RunSpec, ranks: Ranks) -> None:
        if spec.model.gradient_checkpointing:
            module.causal.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.module: Model = module.to(ranks.device).train()
        self.ranks = ranks
        self.spec = spec.optimizer
        config = deepspeed_config(spec, ranks.world_size)
        self.zero_stage: int = config["zero_optimization"]["stage"]
        self.adamw = torch.optim.AdamW(
            parameter_groups(module, self.spec.weight_decay),
            lr=self.spec.learning_rate,
            betas=self.spec.betas,
            eps=self.spec.epsilon,
        )
        self._norm = 0.0
        if self.zero_stage == 0:
            self.adamw.register_step_pre_hook(self._clip)
        self.deepspeed, self.optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=self.adamw, config=config, dist_init_required=False
        )

    def _clip(self, *_: object) -> None:
        parameters = [p for p in self.module.parameters() if p.grad is not None]
        self._norm = float(nn.utils.clip_grad_norm_(parameters, self.spec.gradient_clip))
        if not math.isfinite(self._norm):
            # AdamW passes over parameters without a gradient, as the ZeRO stages do when a norm is not finite.
            for parameter in parameters:
                parameter.grad = None

    def __call__(self, *inputs: Tensor | None) -> Any:
        """The network's forward pass."""
        return self.deepspeed(*inputs)

    def backward(self, contribution: Tensor) -> None:
        """Add the gradient of this rank's contribution to a mini-batch's loss (a sum over ranks and micro-batches)."""
        self.deepspeed.backward(contribution * self.ranks.world_size, scale_wrt_gas=False)

    def step(self) -> float:
        """Clip, update, clear the gradients. Returns the gradient's global 2-norm before clipping.

        Where that is not finite, nothing is updated.
        """
        self.deepspeed.step()
        return self._norm if self.zero_stage == 0 else float(self.deepspeed.get_global_grad_norm())

    def set_learning_rate(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def gathered(self, parameters: list[nn.Parameter]) -> Any:
        """Context in which these parameters are whole on every rank; all ranks enter it together."""
        return deepspeed.zero.GatheredParameters(parameters, enabled=self.zero_stage == 3)
