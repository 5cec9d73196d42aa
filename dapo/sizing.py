"""What a run needs, and how long its steps take, before it is started: arithmetic on its spec and on few assumptions.

With R = prompts_per_step · group_size responses a step, L tokens a response and keep rate p, a step trains on R · L
response tokens and R · L / p are generated for it. A GPU generates g tokens a second, and a learner rank trains on t of
them, sending the weights included. Training takes R · L / (t · ranks) seconds, generation with n generators of k GPUs
R · L / (p · g · k · n); asynchronous runs take the longer of both for a step, synchronous ones (max_staleness 0) both.
n* and f are those of dapo.algo.scaling.

Memory is what stays of training: weights in model.dtype, gradients in fp32, Adam's two moments and for bfloat16 a copy
of the weights in fp32, divided over the ranks as ZeRO does (arXiv 1910.02054, section 5). Activations and logits come
on top, and so does a LoRA adapter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil, isfinite
from statistics import median
from typing import Any, NamedTuple

from dapo.algo.scaling import LEARNER_SLACK, best_share, fewest_for
from dapo.spec.budget import PayloadBudget, format_bytes, payload_budget, server_memory_mib
from dapo.spec.preview import PreviewRow
from dapo.spec.run import RunSpec
from dapo.spec.workloads import gpus_of, plan_workloads

MEASURED_STEPS = 50
"""Newest steps of a run that speeds are taken from."""
_DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
_GRADIENT_BYTES, _MOMENTS_BYTES, _MASTER_BYTES = 4, 8, 4


class NotMeasured(ValueError):
    """No step of a run has what speeds are taken from."""


class Assumptions(NamedTuple):
    """None: not known."""

    keep_rate: float
    response_tokens: float
    """Mean."""
    generated_per_s: float | None = None
    """Response tokens that one GPU generates in a second; on a CPU, one generator."""
    trained_per_s: float | None = None
    """Response tokens that one learner rank trains on in a second, sending the weights included."""
    parameters: int | None = None


class Pace(NamedTuple):
    """Of a step, in seconds but where named otherwise."""

    generation_s: float
    training_s: float
    step_s: float
    balance: float
    """n*: generators with which both take as long."""
    generators: int
    """To have: the learner then hardly waits."""
    share: float
    """f: the best share of GPUs for generation."""
    limit: str
    """What a step takes its time for, in words."""


@dataclass(frozen=True)
class Sizing:
    gpus: int
    """Of all workers together, where they run on GPUs."""
    assumed: Assumptions
    responses: int
    """A step."""
    payloads: PayloadBudget
    redis_mib: int
    """Memory of the server, payloads, streams and ledger together."""
    generator_bytes: int | None
    """Weights on each GPU of a generator; its KV pool takes what is left."""
    learner_bytes: int | None
    """State of training on each learner rank's GPU."""
    pace: Pace | None
    """None where a speed is not known."""


def group_keep_rate(accuracy: float, group_size: int) -> float:
    """1 − p^G − (1 − p)^G: the share of groups with both right and wrong responses, where each response of every prompt
    is right with probability p. Where prompts differ it is less."""
    return 1 - accuracy**group_size - (1 - accuracy) ** group_size


def measured(rows: Sequence[Mapping[str, Any]], spec: RunSpec) -> Assumptions:
    """Medians over the newest steps of a run of that spec, but for its parameters. Raises NotMeasured."""
    found = [one for row in rows[-MEASURED_STEPS:] if (one := _measured(row, spec)) is not None]
    if not found:
        raise NotMeasured("no step of it has measured how fast tokens are generated and trained")
    keep_rate, length, generated, trained = (median(column) for column in zip(*found, strict=True))
    return Assumptions(keep_rate, length, generated, trained)


def _measured(row: Mapping[str, Any], spec: RunSpec) -> tuple[float, float, float, float] | None:
    names = ("keep_rate", "response_length_mean", "generated_tokens_per_s", "generators", "generator_idle")
    values = [row.get(name) for name in (*names, "trained_tokens", "step_s", "learner_idle")]
    numbers = [value for value in values if isinstance(value, int | float) and isfinite(value)]
    if len(numbers) < len(values):
        return None
    keep_rate, length, rate, generators, generator_idle, tokens, step_s, learner_idle = numbers
    busy = generators * (1 - generator_idle) * spec.resources.generator.tensor_parallel
    train_s = step_s * (1 - learner_idle) * spec.resources.learner.ranks
    if min(keep_rate, length, rate, busy, tokens, train_s) <= 0:
        return None
    return keep_rate, length, rate / busy, tokens / train_s


def size(spec: RunSpec, assumed: Assumptions) -> Sizing:
    """For a spec with training."""
    payloads = payload_budget(_as_assumed(spec, assumed))
    split, parameters = spec.resources.generator.tensor_parallel, assumed.parameters
    return Sizing(
        gpus=gpus_of(plan_workloads(spec)),
        assumed=assumed,
        responses=payloads.completions_per_step,
        payloads=payloads,
        redis_mib=server_memory_mib(spec.resources.redis.memory_mib),
        generator_bytes=parameters * _DTYPE_BYTES[spec.model.dtype] // split if parameters else None,
        learner_bytes=_learner_bytes(spec, parameters) if parameters else None,
        pace=_pace(spec, assumed, payloads.completions_per_step),
    )


def _as_assumed(spec: RunSpec, assumed: Assumptions) -> RunSpec:
    length = min(ceil(assumed.response_tokens), spec.sampling.max_response_tokens)
    sampling = spec.sampling.model_copy(update={"expected_response_tokens": length})
    asynchrony = spec.asynchrony.model_copy(update={"expected_keep_rate": assumed.keep_rate})
    return spec.model_copy(update={"sampling": sampling, "asynchrony": asynchrony})


def _learner_bytes(spec: RunSpec, parameters: int) -> int:
    training, ranks, element = spec.training, spec.resources.learner.ranks, _DTYPE_BYTES[spec.model.dtype]
    stage = max(1, training.zero_stage) if element == 2 else training.zero_stage
    optimizer = _MOMENTS_BYTES + (_MASTER_BYTES if element == 2 else 0)
    if spec.lora.rank is not None:
        trained = float(element)
    else:
        weights = 0.0 if training.offload == "parameters" else element / (ranks if stage == 3 else 1)
        held = 0.0 if training.offload != "none" else optimizer / (ranks if stage >= 1 else 1)
        trained = weights + _GRADIENT_BYTES / (ranks if stage >= 2 else 1) + held
    networks = 2 if spec.algorithm.advantage_estimator == "gae" else 1
    reference = element if spec.algorithm.needs_reference else 0
    return round(parameters * (trained * networks + reference))


def _pace(spec: RunSpec, assumed: Assumptions, responses: int) -> Pace | None:
    if assumed.generated_per_s is None or assumed.trained_per_s is None:
        return None
    generator, ranks = spec.resources.generator, spec.resources.learner.ranks
    tokens = responses * assumed.response_tokens
    training_s = tokens / (assumed.trained_per_s * ranks)
    alone_s = tokens / assumed.keep_rate / (assumed.generated_per_s * generator.tensor_parallel)
    generation_s = alone_s / generator.replicas
    synchronous = spec.asynchrony.max_staleness == 0
    step_s = generation_s + training_s if synchronous else max(generation_s, training_s)
    learner, generators = 1 - training_s / step_s, 1 - generation_s / step_s
    if synchronous:
        limit = f"both take turns (asynchrony.max_staleness = 0): the learner waits {100 * learner:.0f} % of a step"
    elif learner > LEARNER_SLACK:
        limit = f"generation: the learner waits {100 * learner:.0f} % of a step"
    else:
        limit = f"training: generators are idle for {100 * generators:.0f} % of a step"
    share = best_share(alone_s * generator.tensor_parallel, training_s * ranks)
    balance = alone_s / training_s
    return Pace(generation_s, training_s, step_s, balance, fewest_for(balance), share, limit)


def explain(found: Sizing, spec: RunSpec) -> list[PreviewRow]:
    """In words, as `dapo train --dry-run` prints them."""
    assumed, pace = found.assumed, found.pace
    speeds = [
        ("generation", assumed.generated_per_s, "tokens a second and GPU"),
        ("training", assumed.trained_per_s, "response tokens a second and learner rank"),
    ]
    rows = [
        PreviewRow("Assumed", "keep rate", f"{assumed.keep_rate:.3g}"),
        PreviewRow("Assumed", "response", f"{assumed.response_tokens:,.0f} tokens in the mean"),
        *(PreviewRow("Assumed", name, f"{speed:,.0f} {unit}") for name, speed, unit in speeds if speed is not None),
        PreviewRow("GPUs", "all workers", f"{found.gpus}, where they run on GPUs"),
    ]
    for name, held, rest in (
        ("a generator's", found.generator_bytes, "of weights; its KV pool takes what is left"),
        ("a learner rank's", found.learner_bytes, "of weights, gradients and optimizer; activations come on top"),
    ):
        text = f"{format_bytes(held)} {rest}" if held is not None else "not known: give --parameters, e.g. 7e9"
        rows.append(PreviewRow("GPUs", name, text))
    rows += [
        PreviewRow("Redis", "payloads", f"{format_bytes(found.payloads.needed)}: {found.payloads.explain()}"),
        PreviewRow("Redis", "server", f"{found.redis_mib} MiB, by resources.redis.memory_mib"),
    ]
    if pace is None:
        text = "not known: give --generated-per-s and --trained-per-s, or --from a run on such machines"
        return [*rows, PreviewRow("A step", "time", text)]
    generator, replicas = spec.resources.generator, spec.resources.generator.replicas
    generation = f"resources.generator.replicas = {replicas}, tensor_parallel = {generator.tensor_parallel}"
    training = f"resources.learner.ranks = {spec.resources.learner.ranks}"
    balanced = f"{pace.generators} (n* = {pace.balance:.1f}); the spec has {replicas}"
    return [
        *rows,
        PreviewRow("A step", "generation", f"{pace.generation_s:,.1f} s with {generation}"),
        PreviewRow("A step", "training", f"{pace.training_s:,.1f} s with {training}"),
        PreviewRow("A step", "time", f"{pace.step_s:,.1f} s; {spec.training.steps} take {_hours(pace, spec)}"),
        PreviewRow("A step", "limited by", pace.limit),
        PreviewRow("Balance", "generators", balanced),
        PreviewRow("Balance", "f", f"{pace.share:.2f} of the GPUs generate at best, {1 - pace.share:.2f} train"),
    ]


def _hours(pace: Pace, spec: RunSpec) -> str:
    return f"{pace.step_s * spec.training.steps / 3600:,.1f} h"
