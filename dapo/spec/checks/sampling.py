"""What no single field of `sampling` can tell: the distribution, the group, how its batches divide."""

from collections.abc import Iterator

from dapo.spec.problem import Problem
from dapo.spec.tree.run import RunTree


def distribution(spec: RunTree) -> Iterator[Problem]:
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


def group_size(spec: RunTree) -> Iterator[Problem]:
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


def batch_division(spec: RunTree) -> Iterator[Problem]:
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
