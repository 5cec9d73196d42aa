"""How much Redis memory a run's payloads take. Pure arithmetic on the spec.

Payloads of a batch stay in Redis until a checkpoint covers it and another one follows (with `checkpoint.keep_last` 1:
until it is covered), so at worst twice `checkpoint.every_steps` trained batches lie there together with the groups of
`max_staleness` + 1 batches that are on their way. Of those, pacing issues 1/p for each that dynamic sampling keeps;
what it filters goes as soon as it is graded. The keep rate p is not known before: `asynchrony.expected_keep_rate`.
Evaluations that go on beside the training take what they have in flight; before and after it they wait for room.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from dapo.spec.tree.evaluation import HELD_OUT
from dapo.spec.tree.run import RunTree

MIB = 2**20
ISSUE_SHARE = 0.85
"""Of the budget: while more is in use, no new prompts are issued."""
ID_BYTES = 4
LOGPROB_BYTES = 4
TEXT_BYTES = 5
"""Decoded text per token, a generous mean for English and mathematics."""
_TRAINING_SHARE = 4
"""Beside training, prompts of an evaluation in flight: one for so many of a train batch."""


@dataclass(frozen=True)
class PayloadBudget:
    """All figures in bytes except where named otherwise."""

    prompt_tokens: int
    response_tokens: int
    completion: int
    completions_per_step: int
    step: int
    intervals: int
    """Between checkpoints, whose batches are held."""
    trained_held: int
    """Trained batches that wait for a checkpoint."""
    ahead: int
    """Batches whose groups are on their way or in training."""
    keep_rate: float
    evaluated: int
    """Responses of an evaluation in flight beside the training, at most."""
    evaluation: int
    """What they take."""
    needed: int
    limit: int

    @property
    def fits(self) -> bool:
        return self.needed <= self.limit

    def explain(self) -> str:
        return (
            f"a completion of {self.prompt_tokens} + {self.response_tokens} tokens takes "
            f"({self.prompt_tokens} + {self.response_tokens}) × {ID_BYTES} + "
            f"{self.response_tokens} × ({LOGPROB_BYTES} + {TEXT_BYTES}) = {self.completion} bytes; "
            f"× {self.completions_per_step} completions = {format_bytes(self.step)} a step; "
            f"× ({self.trained_held} steps ({self.intervals} × checkpoint.every_steps) + {self.ahead} "
            f"(asynchrony.max_staleness + 1) / {self.keep_rate:g} (asynchrony.expected_keep_rate)) "
            f"{self._explain_evaluation()}= {format_bytes(self.needed)}"
        )

    def _explain_evaluation(self) -> str:
        if not self.evaluated:
            return ""
        return f"+ {format_bytes(self.evaluation)} ({self.evaluated} responses of an evaluation in flight beside them) "


def payload_budget(spec: RunTree) -> PayloadBudget:
    prompt = spec.data.max_prompt_tokens
    response = spec.sampling.budgeted_response_tokens
    completion = _completion_bytes(prompt, response)
    completions = spec.training.prompts_per_step * spec.sampling.group_size
    intervals = min(2, spec.checkpoint.keep_last)
    trained, ahead = intervals * spec.checkpoint.every_steps, spec.asynchrony.max_staleness + 1
    keep_rate = spec.asynchrony.expected_keep_rate if spec.algorithm.dynamic_sampling else 1.0
    step = completions * completion
    evaluated = _evaluated_beside_training(spec)
    longest = spec.evaluation.max_response_tokens
    evaluation = evaluated * _completion_bytes(prompt, min(response, longest) if longest else response)
    needed = ceil(step * (trained + ahead / Fraction(keep_rate))) + evaluation
    limit = spec.resources.redis.memory_mib * MIB
    return PayloadBudget(
        *(prompt, response, completion, completions, step, intervals, trained, ahead, keep_rate),
        *(evaluated, evaluation, needed, limit),
    )


def _completion_bytes(prompt: int, response: int) -> int:
    return (prompt + response) * ID_BYTES + response * (LOGPROB_BYTES + TEXT_BYTES)


def _evaluated_beside_training(spec: RunTree) -> int:
    samples = evaluated_samples(spec)
    if spec.evaluation.every_steps is None or not samples:
        return 0
    most = max(samples.values())
    return most * evaluated_prompts(spec, most, training=True)


def evaluated_samples(spec: RunTree) -> dict[str, int]:
    """Responses a prompt, by evaluation set."""
    wanted = spec.evaluation
    samples = {name: one.samples or wanted.samples for name, one in wanted.sets.items()}
    return samples | ({HELD_OUT: wanted.samples} if spec.data.held_out_share else {})


def evaluated_prompts(spec: RunTree, samples: int, *, training: bool) -> int:
    """Prompts of an evaluation in flight at most, of `samples` responses each; `training` goes on beside it."""
    evaluation, generator = spec.evaluation, spec.resources.generator
    at_once = max(1, generator.max_running_requests // samples)
    if evaluation.dedicated_generator:
        return at_once
    if training:
        return evaluation.prompts_in_flight or max(1, spec.training.prompts_per_step // _TRAINING_SHARE)
    return at_once * generator.replicas


def server_memory_mib(memory_mib: int) -> int:
    """Limit of an embedded Valkey: room over the payloads' budget for the ledger, the streams and the server itself."""
    return memory_mib + memory_mib // 4 + 64


def format_bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
