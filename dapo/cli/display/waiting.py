"""What a run waits for and when it will be done, told from its events. Pure."""

from collections import deque

from dapo.contracts import events
from dapo.contracts.events import (
    Alert,
    EvaluationFinished,
    EvaluationProgress,
    Event,
    ServiceChanged,
    StateChanged,
    StepFinished,
)

_WINDOW = 10


class Waiting:
    """Which service a run waits for while it starts and ends, told from its events. `steps` of the run; 0: it only
    evaluates."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self._state = "starting"
        self._workers: dict[str, tuple[str, str]] = {}
        self._stepped = False
        self._evaluation = ""
        self.standstill = ""
        """What the run waits for though it is well under way; empty while it gets on."""

    def update(self, event: Event) -> None:
        if isinstance(event, StateChanged | StepFinished):
            self.standstill = ""
        match event:
            case Alert(cause=events.WAITING):
                self.standstill = event.message
            case Alert(cause=events.WAITING_OVER):
                self.standstill = ""
            case StateChanged():
                self._state = event.state
                if event.state == "starting":  # Perhaps once more.
                    self._workers, self._stepped, self._evaluation = {}, False, ""
            case ServiceChanged():
                role = event.role or event.worker_id.rsplit("-", 1)[0]
                self._workers[event.worker_id] = (role, event.state)
            case StepFinished():
                self._stepped = True
            case EvaluationProgress():
                self._evaluation = f"evaluating step {event.step}: {event.done} of {event.problems} problems…"
            case EvaluationFinished():
                self._evaluation = ""

    @property
    def text(self) -> str:
        """Empty while the run trains."""
        if self.standstill:
            return self.standstill
        if self._evaluation and self._state in ("running", "draining"):
            return self._evaluation
        if self._state == "draining":
            return "finishing the last steps…"
        if self._state == "running":
            return "" if self._stepped or not self.steps else "waiting for the first batch…"
        if self._state == "queued":
            return "waiting for room…"
        if self._state != "starting":
            return ""
        if not self._workers:
            return "starting Redis, checking the data…"
        late = [name for name, (role, state) in self._workers.items() if role == "generator" and state != "ready"]
        if late:
            return f"starting SGLang ({', '.join(late)}) and loading the model…"
        return "waiting for the learner's first weights…" if self.steps else "waiting for the generators…"


class Pace:
    """Time left, from the mean duration of the last ten steps."""

    def __init__(self) -> None:
        self._times: deque[tuple[int, float]] = deque(maxlen=_WINDOW + 1)

    def update(self, step: int, at_s: float) -> None:
        """A step ended then. One that comes again was lost: the pace is anew."""
        if self._times and step <= self._times[-1][0]:
            self._times.clear()
        self._times.append((step, at_s))

    def left_s(self, total: int) -> float | None:
        """Until so many steps are done. None before the second step."""
        if len(self._times) < 2:
            return None
        (first, began_s), (last, now_s) = self._times[0], self._times[-1]
        return max(0, total - last) * (now_s - began_s) / (last - first)
