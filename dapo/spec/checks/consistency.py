"""What no single field can tell: values that do not go together.

A problem refuses the spec; a warning is shown and the run goes on.
"""

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from dapo.spec.budget import MIB, format_bytes, payload_budget
from dapo.spec.checks.data import data
from dapo.spec.checks.evaluation import evaluation
from dapo.spec.checks.graders import graders
from dapo.spec.checks.ignored import unread_fields
from dapo.spec.checks.training import training_course, training_memory
from dapo.spec.text.problem import Problem
from dapo.spec.text.wording import float_text, shown
from dapo.spec.tree.resources import ENGINE_RESERVE_TOKENS

if TYPE_CHECKING:
    from dapo.spec.run import RunSpec

Check = Callable[["RunSpec"], Iterator[Problem]]


def find_problems(spec: "RunSpec") -> list[Problem]:
    return [problem for check in _CHECKS for problem in check(spec)]


def find_warnings(spec: "RunSpec") -> list[Problem]:
    """Choices that are allowed and rarely meant. Shown to the user, never fatal."""
    return [problem for check in _WARNINGS for problem in check(spec)]


def _model_path(spec: "RunSpec") -> Iterator[Problem]:
    if "\0" in spec.model.path:
        yield Problem("model.path", shown(spec.model.path.replace("\0", "\\0")), "holds a NUL character. Take it out")


def _sampling(spec: "RunSpec") -> Iterator[Problem]:
    sampling = spec.sampling
    why = (
        "training needs the probabilities that the model itself gives; truncated sampling renormalises them and biases "
        "the ratio to the sampler"
    )
    if sampling.top_p != 1:
        yield Problem("sampling.top_p", str(sampling.top_p), f"{why}. Set 1")
    if sampling.top_k != -1:
        yield Problem("sampling.top_k", str(sampling.top_k), f"{why}. Set -1 (off)")
    expected, longest = sampling.expected_response_tokens, sampling.max_response_tokens
    if expected is not None and expected > longest:
        yield Problem(
            "sampling.expected_response_tokens",
            str(expected),
            f"no response is longer than sampling.max_response_tokens = {longest}. Set at most {longest}",
        )


def _group(spec: "RunSpec") -> Iterator[Problem]:
    if spec.sampling.group_size > 1:
        return
    algorithm = spec.algorithm
    reasons = []
    if algorithm.advantage_estimator == "group":
        reasons.append("a response's advantage is its reward less the mean of its group, which is 0 in a group of one")
        if algorithm.advantage_std:
            reasons.append("algorithm.advantage_std would divide by a standard deviation of 0")
    if algorithm.dynamic_sampling:
        reasons.append("algorithm.dynamic_sampling would filter every group, as one of one is never informative")
    if reasons:
        yield Problem("sampling.group_size", "1", f"{'; '.join(reasons)}. Set at least 2 (the paper: 16)")


def _batch(spec: "RunSpec") -> Iterator[Problem]:
    training, group = spec.training, spec.sampling.group_size
    responses, updates = training.prompts_per_step * group, training.updates_per_step
    if responses % updates:
        below = max(count for count in range(1, min(updates, responses) + 1) if responses % count == 0)
        yield Problem(
            "training.updates_per_step",
            str(updates),
            f"does not divide the batch: training.prompts_per_step × sampling.group_size = "
            f"{training.prompts_per_step} × {group} = {responses} responses. Set {below}, or change the batch",
        )


def _reward(spec: "RunSpec") -> Iterator[Problem]:
    reward, longest = spec.reward, spec.sampling.max_response_tokens
    buffer = reward.overlong_buffer_tokens
    if spec.algorithm.soft_overlong_punishment and buffer >= longest:
        yield Problem(
            "reward.overlong_buffer_tokens",
            str(buffer),
            f"must be smaller than sampling.max_response_tokens = {longest}, or every response is punished for its "
            f"length. Set fewer than {longest} (the paper: a fifth, {longest // 5}), or switch "
            "algorithm.soft_overlong_punishment off",
        )
    if reward.correct <= reward.incorrect:
        yield Problem(
            "reward.correct",
            str(reward.correct),
            f"must be greater than reward.incorrect = {reward.incorrect}, or wrong answers are learned. Swap them",
        )


def _devices(spec: "RunSpec") -> Iterator[Problem]:
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


def _memory(spec: "RunSpec") -> Iterator[Problem]:
    budget = payload_budget(spec)
    # Without training no payload waits for a checkpoint.
    if spec.training.steps and not budget.fits:
        yield Problem(
            "resources.redis.memory_mib",
            str(spec.resources.redis.memory_mib),
            f"the payloads of this run do not fit: {budget.explain()}, more than {format_bytes(budget.limit)}. "
            f"Set at least {-(-budget.needed // MIB)}, lower checkpoint.every_steps, or set "
            "sampling.expected_response_tokens to the mean length that you expect",
        )


def _reflection(spec: "RunSpec") -> Iterator[Problem]:
    field = "metrics.reflection_patterns"
    for pattern in spec.metrics.reflection_patterns:
        try:
            matches_nothing = re.compile(pattern, re.IGNORECASE).search("")
        except (re.error, OverflowError, RecursionError) as error:
            cure = f"Mend it, or write the plain text as {shown(re.escape(pattern))}"
            yield Problem(field, shown(pattern), f"is no regular expression: {error}. {cure}")
        else:
            if matches_nothing:
                yield Problem(field, shown(pattern), "matches every text, even an empty one. Take it out")


def _warn_algorithm(spec: "RunSpec") -> Iterator[Problem]:
    algorithm = spec.algorithm
    if algorithm.clip_low > algorithm.clip_high:
        yield Problem(
            "algorithm.clip_low",
            str(algorithm.clip_low),
            f"is above algorithm.clip_high = {algorithm.clip_high}; Clip-Higher wants the upper bound to be the wider "
            "one. Did you swap them?",
        )
    grouped = algorithm.advantage_estimator == "group"
    if grouped and algorithm.overlong_filtering and algorithm.soft_overlong_punishment:
        yield Problem(
            "algorithm.overlong_filtering",
            "true",
            "takes truncated responses out of the loss, so algorithm.soft_overlong_punishment reaches them only "
            "through their group's mean. The paper's final recipe uses the punishment alone",
        )


def _warn_training(spec: "RunSpec") -> Iterator[Problem]:
    training, resources = spec.training, spec.resources
    if not training.steps:
        return
    warmup = spec.optimizer.warmup_steps
    if warmup > training.steps:
        yield Problem(
            "optimizer.warmup_steps",
            str(warmup),
            f"is longer than the run (training.steps = {training.steps}), so the learning rate never reaches "
            f"{float_text(spec.optimizer.learning_rate)}",
        )
    responses = training.prompts_per_step * spec.sampling.group_size // training.updates_per_step
    if responses < resources.learner.ranks:
        yield Problem(
            "resources.learner.ranks",
            str(resources.learner.ranks),
            f"an update has only {responses} responses, so some ranks have nothing to do",
        )
    if training.zero_stage and training.offload == "none" and resources.learner.ranks == 1:
        yield Problem(
            "training.zero_stage",
            str(training.zero_stage),
            "ZeRO shards over ranks, and resources.learner.ranks = 1: it costs time and saves nothing",
        )
    if spec.model.dtype == "bfloat16" and resources.learner.device == "cpu":
        yield Problem("model.dtype", "bfloat16", "most CPUs are many times slower in bfloat16 than in float32")


_CHECKS: tuple[Check, ...] = (
    _model_path,
    data,
    _sampling,
    _group,
    _batch,
    _reward,
    graders,
    evaluation,
    unread_fields,
    training_course,
    training_memory,
    _devices,
    _memory,
    _reflection,
)
_WARNINGS: tuple[Check, ...] = (_warn_algorithm, _warn_training)
