"""What a run waits for, since when, and when that is unusual. Pure: readings and times in, words and verdicts out.

A run gets on while either side moves: the flow (prompts, responses, grades, decisions) up to the next batch, and then
the learner. Which of them is awaited follows from whether a batch is in training; how long, from the side's last move.
"""

from collections import deque
from collections.abc import Hashable, Mapping
from datetime import datetime
from enum import IntEnum
from statistics import median
from typing import Literal, NamedTuple

ATTEMPTS = 3
"""Times that the holder is started again for the sake of one step, and then times that a group is given up for it."""
_STEPS = 21
"""Newest steps whose durations count."""
_UNUSUAL_STEPS = 5.0
"""A wait is unusual, or stuck, no sooner than after so many median steps."""
_STALL_STEPS = 20.0
"""A run that says nothing else about it is stuck after so many median steps,"""
_WARM_UP_STEPS = 5
"""once so many have been seen."""
_LEAST_STALL_S = 600.0
_LONGEST_STALL_S = 3600.0
FIRST_STEP = 20.0
"""How many times longer than `alert_s` the first weights may take, and a step of the learner before it is known how
long its steps are."""
LONGEST_LOOK_S = 5.0
"""Of the time between two looks so much counts at most: where nobody could look (Redis was away, this process was
stopped), nobody is known to have waited."""

Stage = Literal["generation", "grading", "decision"]
Role = Literal["generator", "verifier", "learner"]


class Looks:
    """Counts time as one who looks now and again. Begins with the first look; nothing survives a restart."""

    def __init__(self) -> None:
        self._last: float | None = None

    @property
    def begun(self) -> bool:
        return self._last is not None

    def passed(self, now_s: float) -> float:
        """Seconds since the last look that count; 0 at the first. `now_s` is of a clock that never goes back."""
        last, self._last = self._last, now_s
        return 0.0 if last is None else min(now_s - last, LONGEST_LOOK_S)


class Reading(NamedTuple):
    """A run at one moment. Of `learning` and `flow` only changes count."""

    step: int
    """The next to be trained, from 1."""
    in_training: bool
    """A batch is cut and not yet trained on."""
    learning: Hashable
    """What the learner has done."""
    flow: Hashable
    """What the others have done: counts of groups, responses, tokens. Also how far the learner is with what they may
    wait for."""


class Level(IntEnum):
    NORMAL = 0
    UNUSUAL = 1
    """Somebody should know."""
    STUCK = 2
    """Whoever holds things up is to be started again."""
    FUTILE = 3
    """That did not help: the group that is held up is to be given up."""
    HOPELESS = 4
    """Nor did that."""


class Wait(NamedTuple):
    """The present one."""

    step: int
    for_learner: bool
    lasted_s: float
    level: Level


class Progress:
    """Follows a run's readings; `observe` says how long it has waited and whether that is much.

    A wait is unusual from max(`alert_s`, 5 × median step) on, and stuck from max(`stall_s`, 5 × median step) on,
    counted from its beginning or from the last `acted`. Without `stall_s` that is 3600 s until five steps have shown
    how long they take, and then 20 × median step, at least `least_stall_s` and 600 s, and at most 3600 s where these
    allow it. Nothing survives a restart.
    """

    def __init__(self, alert_s: float, stall_s: float | None, least_stall_s: float = 0.0) -> None:
        self._alert_s = alert_s
        self._given_stall_s = stall_s
        self._least_stall_s = max(least_stall_s, _LEAST_STALL_S)
        self._looks = Looks()
        self._clock = 0.0
        self._last: Reading | None = None
        self._began = 0.0
        self._acted = 0.0
        self._acts = 0
        self._step_began = 0.0
        self._durations: deque[float] = deque(maxlen=_STEPS)

    def observe(self, reading: Reading, now_s: float) -> Wait:
        """`now_s` is of a clock that never goes back."""
        self._clock += self._looks.passed(now_s)
        last, self._last = self._last, reading
        if last is None or reading.step != last.step:
            if last is not None:
                self._durations.append(self._clock - self._step_began)
            self._step_began, self._acts = self._clock, 0
        if last is None or _moved(last, reading):
            self._began = self._acted = self._clock
        return Wait(reading.step, reading.in_training, self._clock - self._began, self._level(reading))

    def acted(self) -> None:
        """Something was done about it, and the run has the same time once more."""
        self._acts += 1
        self._acted = self._clock

    @property
    def stall_s(self) -> float:
        """Seconds without any progress from which on the run is stuck, as far as its steps have shown by now."""
        usual_s = median(self._durations) if self._durations else 0.0
        bound_s = self._given_stall_s
        if bound_s is None:
            shown = len(self._durations) >= _WARM_UP_STEPS
            bound_s = min(_STALL_STEPS * usual_s, _LONGEST_STALL_S) if shown else _LONGEST_STALL_S
            bound_s = max(bound_s, self._least_stall_s)
        return max(bound_s, _UNUSUAL_STEPS * usual_s)

    def _level(self, reading: Reading) -> Level:
        least = FIRST_STEP * self._alert_s if reading.in_training else 0.0
        if self._durations:
            least = _UNUSUAL_STEPS * median(self._durations)
        if self._clock - self._acted >= max(self.stall_s, least):
            return Level(min(Level.STUCK + self._acts // ATTEMPTS, Level.HOPELESS))
        return Level.UNUSUAL if self._clock - self._began >= max(self._alert_s, least) else Level.NORMAL


def _moved(last: Reading, now: Reading) -> bool:
    """Whether the awaited side has moved, or is another than before."""
    if now.in_training != last.in_training or now.step != last.step:
        return True
    return now.learning != last.learning if now.in_training else now.flow != last.flow


class Oldest(NamedTuple):
    """What lies longest at a stage."""

    stage: Stage
    group_id: str
    holder: str
    """The worker that has taken it; empty where none has."""
    since: datetime | None


class Scene(NamedTuple):
    """What is to be seen of a run that waits."""

    oldest: tuple[Oldest, ...]
    """At most one of each stage."""
    generators: Mapping[str, str]
    """Those whose heart beats, and what keeps each from generating; empty where nothing does."""
    full_server: str
    """The server whose own memory limit is reached; empty where none is."""
    last_checkpoint: bool
    """The last step is trained, and the learner has still to leave."""


class Explanation(NamedTuple):
    text: str
    subject: str
    """The same as long as the run waits for the same."""
    role: Role | None
    """Of whom to start again; None where a restart mends nothing."""
    workers: tuple[str, ...]
    """Those of the role; empty: all of them."""
    group_id: str | None = None
    """The group that is held up, where it is one."""


def explain(wait: Wait, scene: Scene) -> Explanation:
    """What the run waits for, in one sentence, and who holds it up."""
    lasted = seconds(wait.lasted_s)
    if wait.for_learner:
        text = f"step {wait.step} waits {lasted} for the learner, which has its batch"
        return Explanation(text, "learner", "learner", ())
    if scene.full_server:
        server = f"the server at {scene.full_server} has reached its own limit (maxmemory)"
        return Explanation(f"the run waits {lasted} for memory: {server}", "memory", None, ())
    if scene.oldest:
        # Groups of evaluations, e…, hold up a step only where no other is on its way.
        oldest = min(scene.oldest, key=lambda one: (one.group_id.startswith("e"), one.group_id))
        who = "the evaluation" if oldest.group_id.startswith("e") else f"step {wait.step}"
        return _explain_group(f"{who} waits {lasted} for", oldest, scene)
    if scene.last_checkpoint:
        text = f"the run waits {lasted} for the learner's last checkpoint"
        return Explanation(text, "checkpoint", "learner", ())
    return Explanation(f"the run waits {lasted}, and no prompt is on its way", "prompts", None, ())


def explain_start(lasted_s: float, workers: Mapping[str, str]) -> Explanation:
    """Of a run that has served no weights yet; `workers`: who has a part in that, and how it stands with each."""
    parts = ", ".join(f"{worker} {standing}" for worker, standing in workers.items())
    return Explanation(f"the run waits {seconds(lasted_s)} for its first weights: {parts}", "start", None, ())


def _explain_group(waits: str, oldest: Oldest, scene: Scene) -> Explanation:
    role: Role | None
    match oldest.stage:
        case "generation":
            role, what = "generator", f"group {oldest.group_id}"
        case "grading":
            role, what = "verifier", f"the grades of group {oldest.group_id}"
        case "decision":
            role, what = None, f"the orchestrator to decide about group {oldest.group_id}"
    workers: tuple[str, ...] = (oldest.holder,) if oldest.holder else ()
    text = f"{waits} {what}"
    if oldest.holder and role is not None:
        text += f", held by {oldest.holder}" + (f" since {oldest.since:%H:%M:%S}" if oldest.since else "")
        if role == "generator":
            trouble = scene.generators.get(oldest.holder, "sends no heartbeat")
            text += f", which {trouble}" if trouble else ""
    elif role == "generator":
        idle = {worker: trouble for worker, trouble in scene.generators.items() if trouble}
        workers = tuple(sorted(idle))
        troubles = ", ".join(f"{worker} {trouble}" for worker, trouble in sorted(idle.items()))
        text += ", which no generator has taken" + (f": {troubles}" if troubles else "")
    elif role == "verifier":
        text += ", which no verifier has taken"
    subject = f"{oldest.stage} {oldest.group_id} {oldest.holder}"
    return Explanation(text, subject, role, workers, oldest.group_id)


def seconds(count: float) -> str:
    """41 s, 12 min, 3 h 05 min."""
    minutes = int(count) // 60
    if minutes < 2:
        return f"{count:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
