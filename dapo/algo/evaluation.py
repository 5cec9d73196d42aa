"""Measures of an evaluation: avg@k, pass@k and maj@k with bootstrap intervals; and when they end a run. Pure.

A *problem* is one prompt with n responses. Every measure is first one number in [0, 1] a problem and then the mean over
problems. Intervals are 95 % percentile bootstrap intervals over problems (Efron 1979): whole problems are resampled,
each with all its responses, so an interval covers both sources of chance: the choice of problems and the sampling.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from math import comb
from typing import Any, NamedTuple

import numpy as np

from dapo.spec.tree.evaluation import EarlyStoppingSpec

_CONFIDENCE = 0.95
_RESAMPLES = 2_000
_SEED = 20_250_318
_MAJORITY_DRAWS = 200
"""Random subsets of a problem's responses from which maj@k for k < n is estimated."""


class Judged(NamedTuple):
    """One response of a problem."""

    correct: bool
    answer: str
    """Its class: equal where the grader calls the answers equal; empty where there is none."""
    tokens: int
    truncated: bool


JudgedProblem = Sequence[Judged]


class Estimate(NamedTuple):
    """A mean over problems and its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def average_correct(problem: JudgedProblem) -> float:
    """Share of the problem's responses that are correct: avg@n."""
    return sum(response.correct for response in problem) / len(problem)


def pass_at_k(n: int, correct: int, k: int) -> float:
    """Probability that at least one of k responses is correct, drawn without replacement from n of which `correct` are:
    1 − C(n − c, k) / C(n, k), the unbiased estimator of Chen et al. (arXiv 2107.03374, eq. 1). Raises ValueError unless
    1 ≤ k ≤ n and 0 ≤ c ≤ n."""
    if not (1 <= k <= n and 0 <= correct <= n):
        raise ValueError(f"pass@{k} of {correct} correct among {n} responses: wants 1 ≤ k ≤ n and 0 ≤ c ≤ n")
    return 1 - comb(n - correct, k) / comb(n, k)


def vote(responses: JudgedProblem) -> float:
    """Whether the most frequent answer is correct; where several are equally frequent, the share of these that are.

    Answers are one where the grader calls them equal. Responses without an answer do not vote.
    """
    votes = Counter(response.answer for response in responses if response.answer)
    if not votes:
        return 0.0
    most = max(votes.values())
    winners = {answer for answer, count in votes.items() if count == most}
    right = {response.answer for response in responses if response.correct}
    return len(winners & right) / len(winners)


def majority_at_k(problem: JudgedProblem, k: int) -> float:
    """maj@k (self-consistency, arXiv 2203.11171): the mean of `vote` over subsets of k of the n responses.

    Exact for k = 1 and k = n; else over random subsets, the same ones on every call. Raises ValueError unless
    1 ≤ k ≤ n.
    """
    n = len(problem)
    if not 1 <= k <= n:
        raise ValueError(f"maj@{k} of {n} responses: wants 1 ≤ k ≤ n")
    if k == n:
        return vote(problem)
    if k == 1:
        return sum(response.correct and bool(response.answer) for response in problem) / n
    return float(np.mean([vote([problem[index] for index in order[:k]]) for order in _orders(n)]))


@lru_cache(maxsize=64)
def _orders(n: int) -> list[list[int]]:
    """_MAJORITY_DRAWS random orders of n responses; the first k of one are a random subset."""
    generator = np.random.default_rng(_SEED)
    orders: list[list[int]] = generator.permuted(np.tile(np.arange(n), (_MAJORITY_DRAWS, 1)), axis=1).tolist()
    return orders


def estimate(values: Sequence[float]) -> Estimate:
    """Mean of one value a problem, with its interval; the same on every call. Raises ValueError for no values."""
    if not values:
        raise ValueError("an evaluation without a problem has no mean")
    array = np.asarray(values, dtype=np.float64)
    generator = np.random.default_rng(_SEED)
    # One draw after the other: all at once would take _RESAMPLES times the memory of the values.
    means = [array[generator.integers(0, len(array), size=len(array))].mean() for _ in range(_RESAMPLES)]
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Estimate(float(array.mean()), float(low), float(high))


def sizes(n: int) -> list[int]:
    """The k for which measures are given: powers of two below n, and n."""
    return [1 << power for power in range(n.bit_length()) if 1 << power < n] + [n]


def difference(before: Sequence[float], after: Sequence[float]) -> Estimate:
    """Mean of after − before over the same problems in the same order, with a paired bootstrap interval.

    Raises ValueError where they differ in length.
    """
    return estimate([b - a for a, b in zip(before, after, strict=True)])


class EvaluationMeasures(NamedTuple):
    """The measures of one evaluation of one set; `pass_at` and `majority_at` are by k."""

    problems: int
    samples: int
    average: Estimate
    pass_at: Mapping[int, Estimate]
    majority_at: Mapping[int, Estimate] | None
    """None where answers cannot be told apart."""
    response_length_mean: float
    """Tokens."""
    truncated_share: float

    def as_json(self) -> dict[str, Any]:
        return {
            "problems": self.problems,
            "samples": self.samples,
            "avg_at_k": self.average._asdict(),
            "pass_at_k": {str(k): found._asdict() for k, found in self.pass_at.items()},
            "maj_at_k": None
            if self.majority_at is None
            else {str(k): found._asdict() for k, found in self.majority_at.items()},
            "response_length_mean": self.response_length_mean,
            "truncated_share": self.truncated_share,
        }


def measure(problems: Sequence[JudgedProblem], *, majority: bool = True) -> EvaluationMeasures:
    """All measures of these problems; with `majority` also maj@k, which needs answers that can be told apart.

    Raises ValueError for no problems, or where they do not have equally many responses, at least one.
    """
    counts = {len(problem) for problem in problems}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"problems must have equally many responses, at least one; there are {sorted(counts)}")
    (n,) = counts
    responses = [response for problem in problems for response in problem]

    def over_problems(one: Callable[[JudgedProblem], float]) -> Estimate:
        return estimate([one(problem) for problem in problems])

    def passed(k: int) -> Estimate:
        return over_problems(lambda problem: pass_at_k(n, sum(response.correct for response in problem), k))

    def voted(k: int) -> Estimate:
        return over_problems(lambda problem: majority_at_k(problem, k))

    return EvaluationMeasures(
        problems=len(problems),
        samples=n,
        average=over_problems(average_correct),
        pass_at={k: passed(k) for k in sizes(n)},
        majority_at={k: voted(k) for k in sizes(n)} if majority else None,
        response_length_mean=sum(response.tokens for response in responses) / len(responses),
        truncated_share=sum(response.truncated for response in responses) / len(responses),
    )


def reason_to_stop(rule: EarlyStoppingSpec, rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Early stopping (Prechelt, 1998): why the run should end after these evaluations; None if it should not.

    `rows` are those of evaluations.jsonl, oldest first. Where several give a reason, the first of them does. Those in
    which every problem failed do not count.
    """
    best: tuple[float, int] | None = None
    waited = 0
    for row in rows:
        if row["set"] != rule.set or row["avg_at_k"] is None:
            continue
        value, step = row["avg_at_k"]["value"], row["step"]
        if rule.threshold is not None and value >= rule.threshold:
            return (
                f"{rule.set} has reached avg@{row['samples']} = {value:.4f} at step {step} "
                f"(evaluation.early_stopping.threshold = {rule.threshold:g})"
            )
        if best is None or value > best[0] + rule.min_delta:
            best, waited = (value, step), 0
            continue
        waited += 1
        if rule.patience is not None and waited >= rule.patience:
            return (
                f"{rule.set} has not risen above avg@{row['samples']} = {best[0]:.4f} of step {best[1]} up to step "
                f"{step} (evaluation.early_stopping.patience = {rule.patience})"
            )
    return None
