"""What `dapo train` shows while a run goes on: a live table on a terminal, one plain line a step elsewhere."""

import math
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

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
from dapo.terminal import Column, WideTable

_WINDOW = 10
_BAR_WIDTH = 50
"""Of a terminal that has room for a bar between the numbers of `LiveDisplay`."""

# Heading, metric, format.
_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("accuracy", "accuracy_mean", "{:.3f}"),
    ("reward", "reward_mean", "{:+.3f}"),
    ("length", "response_length_mean", "{:.1f}"),
    ("entropy", "entropy", "{:.3f}"),
    ("keep rate", "keep_rate", "{:.2f}"),
    ("staleness", "staleness_mean", "{:.2f}"),
    ("version", "policy_version", "{:.0f}"),
    ("tokens/s", "generated_tokens_per_s", "{:,.0f}"),
)


def show(row: Mapping[str, Any], name: str, form: str) -> str:
    """A metric as text; a dash where it was not measured."""
    value = row.get(name)
    return form.format(value) if isinstance(value, int | float) and math.isfinite(value) else "–"


def duration(seconds: float) -> str:
    """h:mm:ss."""
    whole = max(0, round(seconds))
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


class Waiting:
    """Which service a run waits for while it starts and ends, told from its events. `steps` of the run; 0: it only
    evaluates."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
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
            return "" if self._stepped or not self._steps else "waiting for the first batch…"
        if self._state != "starting":
            return ""
        if not self._workers:
            return "starting Redis, checking the data…"
        late = [name for name, (role, state) in self._workers.items() if role == "generator" and state != "ready"]
        if late:
            return f"starting SGLang ({', '.join(late)}) and loading the model…"
        return "waiting for the learner's first weights…" if self._steps else "waiting for the generators…"


class Pace:
    """Time left, from the mean duration of the last ten steps."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._times: deque[tuple[int, float]] = deque(maxlen=_WINDOW + 1)

    def update(self, step: int, now_s: float) -> None:
        self._times.append((step, now_s))

    def left_s(self) -> float | None:
        """None before the second step."""
        if len(self._times) < 2:
            return None
        (first, began_s), (last, now_s) = self._times[0], self._times[-1]
        return (self._total - last) * (now_s - began_s) / (last - first)


def evaluation_text(row: Mapping[str, Any]) -> str:
    """A finished evaluation of one set, in a line."""
    head = f"evaluation of step {row['step']}, {row['set']}: "
    if row["avg_at_k"] is None:
        return f"{head}all {row['failed_problems']} problems failed"
    k = row["samples"]
    average, passed = row["avg_at_k"], row["pass_at_k"][str(k)]
    parts = [f"avg@{k} {average['value']:.3f} [{average['low']:.3f}, {average['high']:.3f}]"]
    if k > 1:
        parts.append(f"pass@{k} {passed['value']:.3f}")
    if k > 1 and row["maj_at_k"] is not None:
        parts.append(f"maj@{k} {row['maj_at_k'][str(k)]['value']:.3f}")
    parts.append(
        f"{row['problems']} problems" + (f", {row['failed_problems']} failed" if row["failed_problems"] else "")
    )
    first, last = row["version_min"], row["version_max"]
    parts.append(f"version {first}" if first == last else f"versions {first}–{last}")
    return head + "  ".join(parts)


class Display(Protocol):
    """Shows a run's events; a context manager around them."""

    def __enter__(self) -> "Display": ...
    def __exit__(self, *_: object) -> None: ...
    def event(self, event: Event) -> None: ...
    def note(self, text: str) -> None: ...


def warning_of(event: Event) -> str | None:
    """The line by which people are told of what they should know though the run goes on; None for other events."""
    match event:
        case Alert(cause="resumed" | "stopping"):
            return event.message
        case Alert():
            return f"alert: {event.message}"
        case ServiceChanged(state="ended", message=str(what)):
            return f"alert: {what}"
    return None


class PlainDisplay:
    """For logs and pipes: a line whenever the awaited thing changes, and a line a step."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._waiting = Waiting(total)
        self._pace = Pace(total)
        self._last = ""

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def note(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def event(self, event: Event) -> None:
        self._waiting.update(event)
        if (warning := warning_of(event)) is not None:
            self.note(warning)
        elif isinstance(event, EvaluationFinished):
            self.note(evaluation_text(event.row))
        elif isinstance(event, StepFinished):
            self._step(event.row)
        elif (text := self._waiting.text) and text.partition(":")[0] != self._last:
            # What follows a colon is how far it is: a log wants that once.
            self._last = text.partition(":")[0]
            self.note(text)

    def _step(self, row: Mapping[str, Any]) -> None:
        self._pace.update(row["step"], time.monotonic())
        left = self._pace.left_s()
        values = "  ".join(f"{heading} {show(row, name, form)}" for heading, name, form in _COLUMNS)
        self.note(f"step {row['step']}/{self._total}  {values}  left {'–' if left is None else duration(left)}")


class LiveDisplay:
    """For terminals: a bar, and a table with the last step."""

    def __init__(self, console: Console, total: int) -> None:
        self._waiting = Waiting(total)
        self._pace = Pace(total)
        self._row: Mapping[str, Any] = {}
        self._note = ""
        self._bar = Progress(
            TextColumn("step"), MofNCompleteColumn(), BarColumn(bar_width=None), TimeElapsedColumn(),
            TextColumn("left {task.fields[left]}"), console=console, expand=True,
        )  # fmt: skip
        self._task = self._bar.add_task("steps", total=total, left="–")
        self._console = console
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4)

    def __enter__(self) -> "LiveDisplay":
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def note(self, text: str) -> None:
        self._note = text

    def event(self, event: Event) -> None:
        self._waiting.update(event)
        if (warning := warning_of(event)) is not None:
            self._live.console.print(Text(warning, style="yellow"))
        elif isinstance(event, EvaluationFinished):
            self._live.console.print(Text(evaluation_text(event.row), style="green"))
        elif isinstance(event, StepFinished):
            self._row = event.row
            self._pace.update(event.row["step"], time.monotonic())
            self._bar.update(self._task, completed=event.row["step"])
        # While the run stands still nobody knows when it ends.
        left = None if self._waiting.standstill else self._pace.left_s()
        self._bar.update(self._task, left="–" if left is None else duration(left))

    def _render(self) -> RenderableType:
        columns = [Column(heading) for heading, _, _ in _COLUMNS]
        table = WideTable(columns, [[Text(show(self._row, name, form)) for _, name, form in _COLUMNS]])
        return Group(self._steps(), table, Text(self._note or self._waiting.text, style="cyan"))

    def _steps(self) -> RenderableType:
        """The bar; its numbers alone where it has no room."""
        if self._console.width >= _BAR_WIDTH:
            return self._bar
        (task,) = self._bar.tasks
        elapsed = duration(task.elapsed or 0.0)
        return Text(f"step {task.completed:.0f}/{task.total:.0f}  {elapsed}  left {task.fields['left']}")


def make_display(console: Console, total: int) -> Display:
    return LiveDisplay(console, total) if console.is_terminal else PlainDisplay(console, total)
