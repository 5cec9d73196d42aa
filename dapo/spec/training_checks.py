"""What of the training section does not go together: where memory is saved, and what is trained."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dapo.spec.problem import Problem

if TYPE_CHECKING:
    from dapo.spec.run import RunSpec

STAGE_OF_OFFLOAD = {
    "none": (0, ""),
    "optimizer": (1, "offloads the optimizer's state, which ZeRO holds from stage 1"),
    "parameters": (3, "offloads parameters between their uses, which only ZeRO stage 3 tells apart"),
}
"""The ZeRO stage that each offload needs at least, and why."""


def training_memory(spec: "RunSpec") -> Iterator[Problem]:
    yield from _offload(spec)
    yield from _sequence_parallel(spec)
    yield from _lora(spec)


def _offload(spec: "RunSpec") -> Iterator[Problem]:
    offload, found = spec.training.offload, spec.training.zero_stage
    stage, why = STAGE_OF_OFFLOAD[offload]
    if found < stage:
        yield Problem(
            "training.offload",
            offload,
            f"{why}, and training.zero_stage = {found}. Set training.zero_stage: {stage}, or this field to none",
        )


def _sequence_parallel(spec: "RunSpec") -> Iterator[Problem]:
    ranks = spec.training.sequence_parallel
    if ranks > 1:
        yield Problem(
            "training.sequence_parallel",
            str(ranks),
            "is not implemented: every learner rank trains on whole sequences of its own. Set 1. Where long sequences "
            "do not fit, use model.gradient_checkpointing: true, training.zero_stage: 3, training.offload and a lower "
            "training.max_tokens_per_micro_batch; where short ones leave room, training.packing",
        )


def _lora(spec: "RunSpec") -> Iterator[Problem]:
    lora = spec.lora
    if lora.rank is not None:
        return
    for name, value in lora:
        if value != type(lora).model_fields[name].default:
            yield Problem(
                f"lora.{name}",
                str(value),
                "has no effect while lora.rank = null: all parameters are trained. Set lora.rank, e.g. 16, or leave "
                "this field out",
            )
