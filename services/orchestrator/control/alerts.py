"""What a person should be told while a run goes on, each once: groups that fail or teach nothing, full memory."""

from dapo.algo.dynamic_sampling import KeepRate, Uniform, UniformStreak
from dapo.contracts.events import Alert, Emit
from dapo.spec.budget import ISSUE_SHARE, MIB
from dapo.spec.run import RunSpec

_HOPELESS_BATCHES = 4
"""Failed groups in a row, without one that was graded, after which the run gives up: this many batches' worth."""


class ControllerError(RuntimeError):
    """The run cannot go on."""


class RunAlerts:
    """Emits an alert when a condition begins, and again only after it has ended. Nothing survives a restart."""

    def __init__(self, spec: RunSpec, keep_rate: KeepRate, streak: UniformStreak, emit: Emit) -> None:
        self._spec = spec
        self._keep_rate = keep_rate
        self._streak = streak
        self._emit = emit
        self._failures_in_a_row = 0
        self._hopeless: str | None = None
        self._told_streak = False
        self._told_keep_rate = False
        self.crowded = False
        """The run's payloads take more of its budget than the share above which no prompts are issued."""

    async def group_failed(self, group_id: str, reason: str) -> None:
        self._failures_in_a_row += 1
        if (self._failures_in_a_row - 1) % self._spec.training.prompts_per_step == 0:
            message = f"group {group_id} failed: {reason} ({self._failures_in_a_row} in a row)"
            await self._emit(Alert(group_id=group_id, message=message))
        if self._failures_in_a_row >= _HOPELESS_BATCHES * self._spec.training.prompts_per_step:
            self._hopeless = (
                f"the last {self._failures_in_a_row} groups all failed, the last one ({group_id}) with the reason "
                f"{reason!r}: see the dead letters and the generators' logs"
            )

    def group_graded(self) -> None:
        self._failures_in_a_row = 0

    async def check_hopeless(self) -> str | None:
        """Why the run should be given up: four batches' worth of groups that all failed, or too many that are uniform.
        An alert each time when uniform groups in a row become many."""
        streak = self._streak
        if streak.is_over:
            limit = f"algorithm.max_uniform_batches = {self._spec.algorithm.max_uniform_batches}"
            return f"{explain(streak)} {limit} batches' worth end the run; null lets it go on"
        if streak.is_long and not self._told_streak:
            await self._emit(Alert(cause="uniform_groups", message=explain(streak)))
        self._told_streak = streak.is_long
        return self._hopeless

    async def check_keep_rate(self) -> None:
        """An alert each time the measured keep rate sinks below the spec's bound."""
        bound = self._spec.asynchrony.low_keep_rate_alert
        low = self._keep_rate.is_low(bound)
        if low and not self._told_keep_rate:
            rate = self._keep_rate.mean
            message = f"dynamic sampling keeps only {rate:.1%} of the groups (alert below {bound:.1%})"
            await self._emit(Alert(message=message, keep_rate=rate))
        self._told_keep_rate = low

    async def check_memory(self, used_bytes: int) -> None:
        """An alert each time the run's own payloads rise above the share at which no more prompts are issued."""
        memory_mib = self._spec.resources.redis.memory_mib
        crowded = used_bytes > ISSUE_SHARE * memory_mib * MIB
        if crowded and not self.crowded:
            message = (
                f"the run's payloads take {used_bytes / MIB:.0f} MiB, above {ISSUE_SHARE:.0%} of "
                f"resources.redis.memory_mib = {memory_mib}: while a batch is in training no prompts are issued, until "
                "its checkpoint frees memory, and otherwise those for one batch"
            )
            await self._emit(Alert(cause="memory_budget", message=message))
        self.crowded = crowded


def explain(streak: UniformStreak) -> str:
    """What a streak is, and what to do about it."""
    correct, wrong = streak.count(Uniform.CORRECT), streak.count(Uniform.WRONG)
    advice = []
    if correct:
        advice.append("What is all correct has been learnt: end here, or train what dapo export writes on harder data.")
    if wrong:
        advice.append(
            "What is all wrong is too hard (train on easier data first), has too little room (truncated_share; raise "
            "sampling.max_response_tokens), or is graded wrongly: try the gold answers with `dapo data inspect "
            "--grader` and read responses with `dapo runs samples`."
        )
    return (
        f"dynamic sampling finds nothing to train on: of the last {len(streak)} groups {correct} were all correct and "
        f"{wrong} all wrong, none mixed. {' '.join(advice)}"
    )
