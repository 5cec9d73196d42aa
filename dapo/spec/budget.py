"""How much Redis memory a run's payloads take. Pure arithmetic on the spec.

Payloads of a batch stay in Redis until a checkpoint covers it and another one follows (with `checkpoint.keep_last` 1:
until it is covered), so at worst twice `checkpoint.every_steps` trained batches lie there together with the groups of
`max_staleness` + 1 batches that are on their way. Of those, pacing issues 1/p for each that dynamic sampling keeps;
what it filters goes as soon as it is graded. The keep rate p is not known before: `asynchrony.expected_keep_rate`.
"""

from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from dapo.spec.tree.run import RunTree

MIB = 2**20
ISSUE_SHARE = 0.85
"""Of the budget: while more is in use, no new prompts are issued."""
ID_BYTES = 4
LOGPROB_BYTES = 4
TEXT_BYTES = 5
"""Decoded text per token, a generous mean for English and mathematics."""


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
            f"= {format_bytes(self.needed)}"
        )


def payload_budget(spec: RunTree) -> PayloadBudget:
    prompt = spec.data.max_prompt_tokens
    response = spec.sampling.budgeted_response_tokens
    completion = (prompt + response) * ID_BYTES + response * (LOGPROB_BYTES + TEXT_BYTES)
    completions = spec.training.prompts_per_step * spec.sampling.group_size
    intervals = min(2, spec.checkpoint.keep_last)
    trained, ahead = intervals * spec.checkpoint.every_steps, spec.asynchrony.max_staleness + 1
    keep_rate = spec.asynchrony.expected_keep_rate if spec.algorithm.dynamic_sampling else 1.0
    step = completions * completion
    needed = ceil(step * (trained + ahead / Fraction(keep_rate)))
    limit = spec.resources.redis.memory_mib * MIB
    return PayloadBudget(
        *(prompt, response, completion, completions, step, intervals, trained, ahead, keep_rate, needed, limit)
    )


def server_memory_mib(memory_mib: int) -> int:
    """Limit of an embedded Valkey: room over the payloads' budget for the ledger, the streams and the server itself."""
    return memory_mib + memory_mib // 4 + 64


def format_bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
