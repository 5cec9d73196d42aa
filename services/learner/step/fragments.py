"""Which stretches of the parameters' training state a rank holds: the fp32 weights and the optimizer's moments of them.

ZeRO lays parameters end to end and cuts the row where the ranks' shares end; stage 3 cuts each parameter by itself.
Named by parameter and place, a stretch says nothing of the number of ranks or the stage: what is saved so can be put
back whatever the cut is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from services.learner.model.policy import TrainedModel
from services.learner.step.engine import LearnerEngine

WEIGHT = "fp32"
"""Beside the names of AdamW's own state: step, exp_avg, exp_avg_sq."""
_STEP = "step"


@dataclass(frozen=True, slots=True)
class Fragment:
    """Values `start` … `start` + `numel` − 1 of the flattened parameter `name`, which has `whole` of them.

    `holder` is the fp32 tensor that the optimizer updates; the fragment lies in it, flattened, from `offset` on.
    """

    name: str
    whole: int
    start: int
    numel: int
    holder: Tensor
    offset: int

    def share(self, rank: int, world_size: int) -> "Fragment":
        """The part for which one of several ranks that hold the same speaks."""
        first, end = (self.numel * one // world_size for one in (rank, rank + 1))
        return replace(self, start=self.start + first, numel=end - first, offset=self.offset + first)

    def state(self, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
        """The fp32 weights and the optimizer's state by their names: views [numel], and the count of updates []."""
        whole = {WEIGHT: self.holder.detach(), **optimizer.state.get(self.holder, {})}
        return {key: value.clone() if key == _STEP else self._stretch(value) for key, value in whole.items()}

    def restore(self, optimizer: torch.optim.Optimizer, state: dict[str, Tensor]) -> None:
        """Inverse of `state`. The parameters of one holder share its count of updates: of several, the highest."""
        kept = optimizer.state[self.holder]
        for key, value in state.items():
            if key == WEIGHT:
                self._stretch(self.holder.detach()).copy_(value)
            elif key == _STEP:
                kept[key] = torch.maximum(value, kept.get(key, value))
            else:
                self._stretch(kept.setdefault(key, torch.zeros_like(self.holder))).copy_(value)

    def _stretch(self, tensor: Tensor) -> Tensor:
        return tensor.view(-1).narrow(0, self.offset, self.numel)


def held_fragments(engine: LearnerEngine[TrainedModel]) -> list[Fragment]:
    """What this rank's optimizer updates; without ZeRO all of it, on every rank."""
    find = {0: _whole, 3: _own_shard}.get(engine.zero_stage, _own_stretch)
    named = ((name, one) for name, one in engine.module.named_parameters() if one.requires_grad)
    return [fragment for name, parameter in named for fragment in find(engine, name, parameter) if fragment.numel]


def _whole(_: LearnerEngine[TrainedModel], name: str, parameter: nn.Parameter) -> Iterator[Fragment]:
    count = parameter.numel()
    yield Fragment(name, count, 0, count, parameter, 0)


def _own_stretch(engine: LearnerEngine[TrainedModel], name: str, parameter: nn.Parameter) -> Iterator[Fragment]:
    """Stages 1 and 2: one flat tensor a parameter group, at the places that DeepSpeed has linked."""
    link: Any = parameter._hp_mapping
    if link is not None:
        (holder,) = engine.adamw.param_groups[link.param_group_index]["params"]
        here, there = link.lp_fragment_address, link.hp_fragment_address
        yield Fragment(name, parameter.numel(), here.start, here.numel, holder, there.start)


def _own_shard(engine: LearnerEngine[TrainedModel], name: str, parameter: nn.Parameter) -> Iterator[Fragment]:
    """Stage 3: one flat tensor a sub-group, without the padding."""
    zero: Any = engine.optimizer
    group, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
    start, count = shard_place(parameter, engine.ranks.rank)
    yield Fragment(name, parameter.ds_numel, start, count, zero.fp32_partitioned_groups_flat[group], offset)


def shard_place(parameter: nn.Parameter, rank: int) -> tuple[int, int]:
    """(start, count) of the values of a parameter that a rank holds under ZeRO 3; behind them it may hold padding,
    which is anything."""
    size = parameter.ds_tensor.ds_numel
    start = min(rank * size, parameter.ds_numel)
    return start, min(size, parameter.ds_numel - start)


def own_shard(parameter: nn.Parameter, rank: int) -> Tensor:
    """These values, as the forward pass reads them."""
    shard: Tensor = parameter.ds_tensor
    return shard.detach().view(-1)[: shard_place(parameter, rank)[1]]


@torch.no_grad()
def spread(engine: LearnerEngine[TrainedModel], fragments: list[Fragment]) -> None:
    """Bring the parameters that the forward pass reads to the fp32 weights of `fragments`, all that this rank holds.

    All ranks call it together. As ZeRO does behind an update: rounded where they are bfloat16, gathered where a rank
    holds whole ones.
    """
    zero: Any = engine.optimizer
    if engine.zero_stage in (1, 2):
        zero.update_lp_params()
    elif engine.zero_stage == 3:
        parameters = dict(engine.module.named_parameters())
        zero.checkpoint_event_prologue()
        for one in fragments:
            own_shard(parameters[one.name], engine.ranks.rank).copy_(one.state(engine.adamw)[WEIGHT])
        zero.checkpoint_event_epilogue()
