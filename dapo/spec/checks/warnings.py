"""Choices that are allowed and rarely meant."""

from collections.abc import Iterator

from dapo.spec.problem import Problem
from dapo.spec.tree.run import RunTree
from dapo.spec.wording import float_text


def unusual_algorithm(spec: RunTree) -> Iterator[Problem]:
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


def unusual_training(spec: RunTree) -> Iterator[Problem]:
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
