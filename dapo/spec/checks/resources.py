"""What no single field of `resources` can tell: which device does what, and whether memory is enough."""

from collections.abc import Iterator

from dapo.spec.budget import MIB, format_bytes, payload_budget
from dapo.spec.problem import Problem
from dapo.spec.tree.resources import ENGINE_RESERVE_TOKENS
from dapo.spec.tree.run import RunTree

LONGEST_OUTAGE_S = 540.0
"""A minute less than replies are remembered (dapo/bus/server/lua/prelude.lua)."""


def devices(spec: RunTree) -> Iterator[Problem]:
    resources = spec.resources
    on_cpu = [name for name in ("generator", "learner") if getattr(resources, name).device == "cpu"]
    if spec.weight_sync.backend == "nccl" and on_cpu:
        fields = " and ".join(f"resources.{name}.device = cpu" for name in on_cpu)
        yield Problem("weight_sync.backend", "nccl", f"NCCL joins GPUs only, but {fields}. Set gloo, or auto")
    if resources.generator.device == "cpu" and resources.generator.tensor_parallel > 1:
        yield Problem(
            "resources.generator.tensor_parallel",
            str(resources.generator.tensor_parallel),
            "splits a model over GPUs, but resources.generator.device = cpu. Set 1, and more "
            "resources.generator.replicas for more throughput",
        )
    pool = resources.generator.max_total_tokens
    if pool is not None and pool < spec.smallest_pool:
        yield Problem(
            "resources.generator.max_total_tokens",
            str(pool),
            f"does not hold one sequence: data.max_prompt_tokens + sampling.max_response_tokens and what SGLang keeps "
            f"back = {spec.data.max_prompt_tokens} + {spec.sampling.max_response_tokens} + {ENGINE_RESERVE_TOKENS}. "
            f"Set at least {spec.smallest_pool}, or shorten them",
        )


def autoscale(spec: RunTree) -> Iterator[Problem]:
    limits, replicas = spec.resources.generator.autoscale, spec.resources.generator.replicas
    if limits.max is None:
        return
    if limits.min > limits.max:
        yield Problem(
            "resources.generator.autoscale.min",
            str(limits.min),
            f"is more than resources.generator.autoscale.max = {limits.max}. Set at most {limits.max}",
        )
    elif not limits.min <= replicas <= limits.max:
        nearest = min(max(replicas, limits.min), limits.max)
        yield Problem(
            "resources.generator.replicas",
            str(replicas),
            f"is not within resources.generator.autoscale.min = {limits.min} and max = {limits.max}. Set {nearest}, "
            "or other limits",
        )


def max_replicas(spec: RunTree) -> Iterator[Problem]:
    generator = spec.resources.generator
    if generator.max_replicas is None:
        return
    shown = str(generator.max_replicas)
    if generator.autoscale.max is not None:
        cure = "only one of them may change the number of generators. Take this field or that one away"
        yield Problem(
            "resources.generator.max_replicas", shown, f"stands beside resources.generator.autoscale.max: {cure}"
        )
    if generator.max_replicas < generator.replicas:
        cure = f"Set at least {generator.replicas}, or fewer replicas"
        yield Problem("resources.generator.max_replicas", shown, f"is less than resources.generator.replicas. {cure}")


def outage_deadline(spec: RunTree) -> Iterator[Problem]:
    outage_s = spec.resources.redis.outage_s
    if outage_s > LONGEST_OUTAGE_S:
        yield Problem(
            "resources.redis.outage_s",
            f"{outage_s:g}",
            "is too long: the server remembers for 600 s which requests it has carried out, and one that is repeated "
            f"later would be carried out twice. Set at most {LONGEST_OUTAGE_S:g}",
        )


def stall_deadline(spec: RunTree) -> Iterator[Problem]:
    """What has a shorter deadline of its own must come to it before its holder is started again."""
    stall_s, (field, least_s) = spec.resources.restarts.stall_s, spec.longest_deadline
    if stall_s is not None and stall_s < least_s:
        yield Problem(
            "resources.restarts.stall_s",
            f"{stall_s:g}",
            f"is less than {field} = {least_s:g}, which comes first. Set at least {least_s:g}",
        )


def payload_memory(spec: RunTree) -> Iterator[Problem]:
    budget = payload_budget(spec)
    # Without training no payload waits for a checkpoint.
    if spec.training.steps and not budget.fits:
        yield Problem(
            "resources.redis.memory_mib",
            str(spec.resources.redis.memory_mib),
            f"the payloads of this run do not fit: {budget.explain()}, more than {format_bytes(budget.limit)}. "
            f"Set at least {-(-budget.needed // MIB)}, lower checkpoint.every_steps or checkpoint.keep_last, or set "
            "sampling.expected_response_tokens to the mean length that you expect",
        )
