"""What the state of a run's workers means. Pure: statuses, silences and times in, judgements out."""

from collections import deque
from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from dapo.host.storage import EXIT_CODE
from dapo.spec.tree.resources import RestartSpec
from dapo.spec.workloads import Role
from services.orchestrator.launch.launcher import WorkerState, WorkerStatus


class HealthAction(StrEnum):
    EXPECTED = "expected"
    """Nothing is to be done about it; where there is a reason, somebody should know."""
    RESTART = "restart"
    FAIL = "fail"
    """The run cannot go on, and a restart would change nothing."""


class Judgement(NamedTuple):
    status: WorkerStatus
    action: HealthAction
    reason: str = ""
    """What is unusual about the worker, in words; empty where nothing is."""


def judge(
    statuses: Iterable[WorkerStatus],
    silences: Mapping[str, float],
    unheard: Mapping[str, float],
    *,
    may_end: Collection[Role],
    proven: bool,
    spec: RestartSpec,
) -> list[Judgement]:
    """Judge each worker.

    `silences`: for how many seconds a worker has sent no heartbeat, of those that were heard before; `unheard`: for how
    many one has run that never was. `may_end` holds the roles that have nothing more to do, whose exit with code 0 is
    expected. `proven`: the run has served weights, so its spec is one that works; before, a worker that leaves by
    itself with an error would do so again.
    """
    return [
        _judge_end(status, may_end, proven)
        if status.state in (WorkerState.EXITED, WorkerState.FAILED)
        else _judge_silence(status, silences.get(status.worker_id), unheard.get(status.worker_id, 0.0), spec)
        for status in statuses
    ]


def _judge_end(status: WorkerStatus, may_end: Collection[Role], proven: bool) -> Judgement:
    if status.code == 0 and status.role in may_end:
        return Judgement(status, HealthAction.EXPECTED)
    killed = status.code is not None and status.code < 0
    hopeless = status.code == EXIT_CODE or not (proven or killed)
    return Judgement(status, HealthAction.FAIL if hopeless else HealthAction.RESTART, str(status))


def _judge_silence(status: WorkerStatus, silent_s: float | None, unheard_s: float, spec: RestartSpec) -> Judgement:
    worker = status.worker_id
    if status.state != WorkerState.RUNNING:
        reason = f"{worker} is not started yet: {status.reason}" if status.reason else ""
        return Judgement(status, HealthAction.EXPECTED, reason)
    if silent_s is None:
        if unheard_s < spec.start_s:
            return Judgement(status, HealthAction.EXPECTED)
        reason = f"{worker} sent no heartbeat for {unheard_s:.0f} s after its start"
        return Judgement(status, HealthAction.RESTART, reason)
    if silent_s < spec.silence_s:
        return Judgement(status, HealthAction.EXPECTED, f"{worker} sends no heartbeat")
    return Judgement(status, HealthAction.RESTART, f"{worker} sent no heartbeat for {silent_s:.0f} s")


class RestartBudget:
    """The restarts of one worker, or of workers that are only started together.

    In any `window_s` there are at most `limit`. The first comes at once, as most ends are accidents; each further one
    in a row after twice the pause of the one before, as that looks like a fault of its own. Nothing of it survives a
    restart of the process.
    """

    def __init__(self, spec: RestartSpec) -> None:
        self._spec = spec
        self._times: deque[float] = deque()
        self._in_a_row = 0

    @property
    def used(self) -> int:
        """Restarts within the window that ended with the last call of `spend`."""
        return len(self._times)

    def spend(self, now_s: float, *, heard: bool = True) -> float | None:
        """One restart at `now_s` (of a clock that never goes back): the pause before it in seconds, or None where the
        budget has none left. The time since the last one counts only where the worker was `heard` in it: else the
        restarts of one that never is would have no end."""
        if self._times and not heard:
            since_s = now_s - self._times[-1]
            self._times = deque(at + since_s for at in self._times)
        while self._times and now_s - self._times[0] >= self._spec.window_s:
            self._times.popleft()
        if len(self._times) >= self._spec.limit:
            return None
        if not self._times or now_s - self._times[-1] > 2 * self._spec.longest_pause_s:
            self._in_a_row = 0
        # A float's range ends at 2^1023, and no pause grows beyond the longest.
        pause = self._spec.pause_s * 2.0 ** min(self._in_a_row - 1, 64) if self._in_a_row else 0.0
        self._in_a_row += 1
        self._times.append(now_s)
        return min(pause, self._spec.longest_pause_s)
