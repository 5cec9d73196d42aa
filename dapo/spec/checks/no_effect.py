"""Fields that were set and have no effect beside the others: a user would count on them in vain."""

from collections.abc import Iterator
from functools import reduce
from typing import Any, NamedTuple

from dapo.spec.problem import Problem
from dapo.spec.tree.algorithm import PRESETS, AlgorithmSpec
from dapo.spec.tree.run import RunTree
from dapo.spec.wording import scalar_text


class _Reason(NamedTuple):
    """Why fields have no effect, and what would give them one."""

    holds: bool
    because: str
    cure: str
    fields: tuple[str, ...]


def fields_without_effect(spec: RunTree) -> Iterator[Problem]:
    for reason in _reasons(spec):
        if not reason.holds:
            continue
        for field in reason.fields:
            value = _value(spec, field)
            if value != _default(spec, field):
                yield Problem(
                    field,
                    scalar_text(value),
                    f"has no effect while {reason.because}. Set {reason.cure}, or leave this field out",
                )


def _reasons(spec: RunTree) -> Iterator[_Reason]:
    algorithm = spec.algorithm
    behaviour = algorithm.proximal_policy == "behaviour"
    grouped = algorithm.advantage_estimator == "group"
    yield _Reason(
        behaviour,
        "algorithm.proximal_policy = behaviour: there π_old is the sampler itself and every weight is 1",
        "algorithm.proximal_policy: decoupled",
        ("algorithm.importance_mode",)
        if algorithm.importance_cap is None
        else ("algorithm.importance_cap", "algorithm.importance_mode"),
    )
    yield _Reason(
        not behaviour and algorithm.importance_cap is None,
        "algorithm.importance_cap = null: the weights are off",
        "algorithm.importance_cap, e.g. 2.0",
        ("algorithm.importance_mode",),
    )
    yield _Reason(
        grouped,
        "algorithm.advantage_estimator = group: there is no value network and a response has one reward",
        "algorithm.advantage_estimator: gae (or preset: ppo)",
        (
            *(f"algorithm.{name}" for name in ("gae_gamma", "gae_lambda", "advantage_whitening", "kl_placement")),
            *(f"value.{name}" for name in type(spec.value).model_fields),
        ),
    )
    yield _Reason(
        not grouped,
        "algorithm.advantage_estimator = gae: no response is compared with its group",
        "algorithm.advantage_estimator: group",
        ("algorithm.advantage_std", "algorithm.advantage_std_ddof", "algorithm.advantage_epsilon"),
    )
    yield _Reason(
        not algorithm.dynamic_sampling,
        "algorithm.dynamic_sampling = false: every group is trained on",
        "algorithm.dynamic_sampling: true",
        ("algorithm.max_uniform_batches", "algorithm.rest_uniform_after"),
    )
    yield _Reason(
        algorithm.rest_uniform_after is None,
        "algorithm.rest_uniform_after = null: no prompt rests",
        "algorithm.rest_uniform_after, e.g. 2",
        ("algorithm.rest_epochs",),
    )
    yield _Reason(
        not grouped and algorithm.kl_coefficient == 0,
        "algorithm.kl_coefficient = 0",
        "algorithm.kl_coefficient, e.g. 0.05",
        ("algorithm.kl_placement",),
    )
    yield _Reason(
        not algorithm.needs_reference,
        "algorithm.kl_coefficient = 0 and algorithm.measure_kl = false: no reference model is loaded",
        "algorithm.kl_coefficient, e.g. 0.04, or algorithm.measure_kl: true",
        ("algorithm.reference_refresh_steps",),
    )
    yield _Reason(
        not grouped and algorithm.overlong_filtering,
        "algorithm.overlong_filtering takes truncated responses out of the loss, and gae knows no group",
        "algorithm.overlong_filtering: false",
        ("algorithm.truncated_reward",),
    )
    yield _Reason(
        not algorithm.dynamic_sampling,
        "algorithm.dynamic_sampling = false: every group is kept",
        "algorithm.dynamic_sampling: true",
        tuple(f"asynchrony.{name}" for name in ("keep_rate_confidence", "low_keep_rate_alert", "expected_keep_rate")),
    )
    yield _Reason(
        spec.model.dtype == "float32",
        "model.dtype = float32: so is the output embedding",
        "model.dtype: bfloat16",
        ("model.head_dtype",),
    )
    yield _Reason(
        spec.optimizer.schedule == "constant",
        "optimizer.schedule = constant",
        "optimizer.schedule: linear or cosine",
        ("optimizer.final_rate",),
    )
    yield _Reason(
        spec.resources.learner.ranks == 1,
        "resources.learner.ranks = 1: the one rank sends",
        "resources.learner.ranks: 2 or more",
        ("weight_sync.sender_share",),
    )
    yield _Reason(
        spec.weight_sync.in_flight != "drain",
        f"weight_sync.in_flight = {spec.weight_sync.in_flight}",
        "weight_sync.in_flight: drain",
        ("weight_sync.drain_s",),
    )
    yield _Reason(
        spec.resources.generator.autoscale.max is None,
        "resources.generator.autoscale.max = null: the number of generators is not changed by the run",
        "resources.generator.autoscale.max, e.g. 4",
        tuple(f"resources.generator.autoscale.{name}" for name in ("min", "window_steps")),
    )
    yield _Reason(
        spec.lora.rank is None,
        "lora.rank = null: all parameters are trained",
        "lora.rank, e.g. 16",
        tuple(f"lora.{name}" for name in type(spec.lora).model_fields if name != "rank"),
    )


def _section(spec: RunTree, field: str) -> tuple[Any, str]:
    """The section that a field is in, and its name there."""
    *sections, name = field.split(".")
    return reduce(getattr, sections, spec), name


def _value(spec: RunTree, field: str) -> Any:
    section, name = _section(spec, field)
    return getattr(section, name)


def _default(spec: RunTree, field: str) -> Any:
    """Under the spec's own preset: what a preset sets, nobody has written."""
    section, name = _section(spec, field)
    if isinstance(section, AlgorithmSpec) and name in PRESETS[section.preset]:
        return PRESETS[section.preset][name]
    owner = AlgorithmSpec if isinstance(section, AlgorithmSpec) else type(section)
    return owner.model_fields[name].default
