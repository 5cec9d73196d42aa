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
    *,
    may_end: Collection[Role],
    proven: bool,
    silence_s: float,
) -> list[Judgement]:
    """Judge each worker.

    `silences`: for how many seconds a worker has sent no heartbeat, of those that were heard before; one that was never
    heard is starting. `may_end` holds the roles that have nothing more to do, whose exit with code 0 is expected.
    `proven`: the run has served weights, so its spec is one that works; before, a worker that leaves by itself with an
    error would do so again. `silence_s`: as in RestartSpec.
    """
    return [_judge(status, silences.get(status.worker_id), may_end, proven, silence_s) for status in statuses]


def _judge(
    status: WorkerStatus, silent_s: float | None, may_end: Collection[Role], proven: bool, silence_s: float
) -> Judgement:
    if status.state in (WorkerState.EXITED, WorkerState.FAILED):
        if status.code == 0 and status.role in may_end:
            return Judgement(status, HealthAction.EXPECTED)
        killed = status.code is not None and status.code < 0
        hopeless = status.code == EXIT_CODE or not (proven or killed)
        return Judgement(status, HealthAction.FAIL if hopeless else HealthAction.RESTART, str(status))
    if silent_s is not None and status.state == WorkerState.RUNNING:
        if silent_s >= silence_s:
            reason = f"{status.worker_id} sent no heartbeat for {silent_s:.0f} s"
            return Judgement(status, HealthAction.RESTART, reason)
        return Judgement(status, HealthAction.EXPECTED, f"{status.worker_id} sends no heartbeat")
    return Judgement(status, HealthAction.EXPECTED)


class RestartBudget:
    """The restarts of one worker, or of workers that are only started together.

    In any `window_s` there are at most `limit`, and each comes after twice the pause of the one before. Nothing of it
    survives a restart of the process.
    """

    def __init__(self, spec: RestartSpec) -> None:
        self._spec = spec
        self._times: deque[float] = deque()

    @property
    def used(self) -> int:
        """Restarts within the window that ended with the last call of `spend`."""
        return len(self._times)

    def spend(self, now_s: float) -> float | None:
        """One restart at `now_s` (of a clock that never goes back): the pause before it in seconds, or None where the
        budget has none left."""
        while self._times and now_s - self._times[0] >= self._spec.window_s:
            self._times.popleft()
        if len(self._times) >= self._spec.limit:
            return None
        # A float's range ends at 2^1023, and no pause grows beyond the longest.
        pause = self._spec.pause_s * 2.0 ** min(len(self._times), 64)
        self._times.append(now_s)
        return min(pause, self._spec.longest_pause_s)
