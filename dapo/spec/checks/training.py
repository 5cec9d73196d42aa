"""What of the training section does not go together: where memory is saved, and what is trained."""

from collections.abc import Iterator
from importlib.util import find_spec

from dapo.redaction import redact_url
from dapo.spec.problem import Problem
from dapo.spec.tree.run import RunTree
from dapo.spec.tree.training import ALL_LINEAR

STAGE_OF_OFFLOAD = {
    "none": (0, ""),
    "optimizer": (1, "offloads the optimizer's state, which ZeRO holds from stage 1"),
    "parameters": (3, "offloads parameters between their uses, which only ZeRO stage 3 tells apart"),
}
"""The ZeRO stage that each offload needs at least, and why."""


def training_memory(spec: RunTree) -> Iterator[Problem]:
    yield from _offload(spec)
    yield from _sequence_parallel(spec)
    yield from _lora(spec)


def _offload(spec: RunTree) -> Iterator[Problem]:
    offload, found = spec.training.offload, spec.training.zero_stage
    stage, why = STAGE_OF_OFFLOAD[offload]
    if found < stage:
        yield Problem(
            "training.offload",
            offload,
            f"{why}, and training.zero_stage = {found}. Set training.zero_stage: {stage}, or this field to none",
        )


def _sequence_parallel(spec: RunTree) -> Iterator[Problem]:
    ranks = spec.training.sequence_parallel
    if ranks > 1:
        yield Problem(
            "training.sequence_parallel",
            str(ranks),
            "is not implemented: every learner rank trains on whole sequences of its own. Set 1. Where long sequences "
            "do not fit, use model.gradient_checkpointing: true, training.zero_stage: 3, training.offload and a lower "
            "training.max_tokens_per_micro_batch; where short ones leave room, training.packing",
        )


def _lora(spec: RunTree) -> Iterator[Problem]:
    modules = spec.lora.target_modules
    if not all(spec.lora.modules):
        yield Problem(
            "lora.target_modules",
            modules,
            "holds an empty name. Set all-linear, or names separated by commas, e.g. q_proj,v_proj",
        )
    elif ALL_LINEAR in spec.lora.modules and len(spec.lora.modules) > 1:
        yield Problem(
            "lora.target_modules",
            modules,
            f"names {ALL_LINEAR}, which is all layers, beside others. Set {ALL_LINEAR} alone, or names without it",
        )
    elif spec.lora.serving == "adapter" and spec.lora.rank is not None and (reason := spec.lora.unservable):
        yield Problem("lora.target_modules", modules, f"cannot be served unmerged: {reason}. Set lora.serving: merged")


def weight_deadlines(spec: RunTree) -> Iterator[Problem]:
    """An engine that was lost must have the time to come back before the run is given up."""
    weights, start_s = spec.weight_sync, spec.resources.generator.start_deadline_s
    needed = start_s + weights.join_deadline_s + weights.ready_s
    drained = weights.ready_s - weights.update_deadline_s
    if weights.no_generator_s < needed:
        yield Problem(
            "weight_sync.no_generator_s",
            f"{weights.no_generator_s:g}",
            f"is less than a generator may take to replace its engine and to get the weights: "
            f"resources.generator.start_deadline_s + weight_sync.join_deadline_s + weight_sync.update_deadline_s"
            f"{' + weight_sync.drain_s' if drained else ''} = {start_s:g} + {weights.join_deadline_s:g} + "
            f"{weights.update_deadline_s:g}{f' + {drained:g}' if drained else ''}. Set at least {needed:g}",
        )


def training_course(spec: RunTree) -> Iterator[Problem]:
    """Counts of steps that leave nothing of the run."""
    steps, algorithm = spec.training.steps, spec.algorithm
    warmup = spec.value.warmup_steps
    if algorithm.advantage_estimator == "gae" and warmup >= steps:
        yield Problem(
            "value.warmup_steps",
            str(warmup),
            f"covers the whole run (training.steps = {steps}), so the policy would never be trained. "
            f"Set fewer than {steps}",
        )
    refresh = algorithm.reference_refresh_steps
    if algorithm.needs_reference and refresh is not None and refresh >= steps:
        yield Problem(
            "algorithm.reference_refresh_steps",
            str(refresh),
            f"is not within the run (training.steps = {steps}), so the reference model would stay the initial one. "
            f"Set fewer than {steps}, or leave this field out",
        )
    if spec.optimizer.schedule != "constant" and spec.optimizer.warmup_steps >= steps:
        yield Problem(
            "optimizer.schedule",
            spec.optimizer.schedule,
            f"begins after optimizer.warmup_steps = {spec.optimizer.warmup_steps}, and the run has {steps} steps. "
            "Shorten the warm-up, or leave this field out",
        )


def missing_for_mirror(spec: RunTree) -> Iterator[Problem]:
    """The package that copies checkpoints, where this machine lacks it. Loading a spec does not look for it."""
    url = spec.checkpoint.mirror
    if url is not None and find_spec("obstore") is None:
        cure = "pip install 'dapo[object-store]' where the run service runs, or leave this field out"
        yield Problem("checkpoint.mirror", redact_url(url), f"its package is not installed. {cure}")
