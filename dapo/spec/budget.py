"""How much Redis memory a run's payloads take. Pure arithmetic on the spec.

Payloads of a batch stay in Redis until a checkpoint covers it and another one follows (with `checkpoint.keep_last` 1:
until it is covered), so at worst twice `checkpoint.every_steps` trained batches lie there together with the batch in
training and the `max_staleness` batches that generation may be ahead.
"""

from dataclasses import dataclass

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
    steps_held: int
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
            f"× {self.steps_held} steps ({self.intervals} × checkpoint.every_steps + asynchrony.max_staleness + 1) "
            f"= {format_bytes(self.needed)}"
        )


def payload_budget(spec: RunTree) -> PayloadBudget:
    prompt = spec.data.max_prompt_tokens
    response = spec.sampling.budgeted_response_tokens
    completion = (prompt + response) * ID_BYTES + response * (LOGPROB_BYTES + TEXT_BYTES)
    completions = spec.training.prompts_per_step * spec.sampling.group_size
    intervals = min(2, spec.checkpoint.keep_last)
    held = intervals * spec.checkpoint.every_steps + spec.asynchrony.max_staleness + 1
    step = completions * completion
    limit = spec.resources.redis.memory_mib * MIB
    return PayloadBudget(prompt, response, completion, completions, step, intervals, held, step * held, limit)


def server_memory_mib(memory_mib: int) -> int:
    """Limit of an embedded Valkey: room over the payloads' budget for the ledger, the streams and the server itself."""
    return memory_mib + memory_mib // 4 + 64


def format_bytes(count: int) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
