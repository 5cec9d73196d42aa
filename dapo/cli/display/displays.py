"""The displays: a live panel on a terminal, plain lines elsewhere, events as JSON for programs."""

import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from dapo.cli.display.panel import panel
from dapo.cli.display.picture import RunPicture
from dapo.cli.display.words import COLUMNS, duration, show
from dapo.cli.output import note, print_json
from dapo.client import Run, RunEvent
from dapo.terminal import visible

_EARLIER = 3


class Display(Protocol):
    """Shows a run; a context manager around what it is told."""

    def __enter__(self) -> "Display": ...
    def __exit__(self, *_: object) -> None: ...
    def event(self, sent: RunEvent) -> None:
        """Something has happened in it."""

    def snapshot(self, run: Run, pipeline: Mapping[str, Any]) -> None:
        """What its service says of it now."""

    def note(self, text: str) -> None:
        """What the one who shows it waits for; "": nothing any more."""


class PlainDisplay:
    """For logs and pipes: a line whenever the awaited thing changes, and a line a step."""

    def __init__(self, console: Console, picture: RunPicture) -> None:
        self._console = console
        self._picture = picture
        self._last = ""
        self._noted = ""

    def __enter__(self) -> "PlainDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def note(self, text: str) -> None:
        if text and text != self._noted:
            self._say(text)
        self._noted = text

    def event(self, sent: RunEvent) -> None:
        if (told := self._picture.event(sent)) is not None:
            self._say(told.text)
        elif sent.kind == "step":
            self._step()
        else:
            self._await()

    def snapshot(self, run: Run, pipeline: Mapping[str, Any]) -> None:
        self._picture.snapshot(run, pipeline)
        if run["state"] == "queued":
            self._await()

    def _await(self) -> None:
        text = self._picture.awaited
        # What follows a colon is how far it is: a log wants that once.
        if text and text.partition(":")[0] != self._last:
            self._last = text.partition(":")[0]
            self._say(text)

    def _step(self) -> None:
        picture, left = self._picture, self._picture.left_s()
        values = "  ".join(f"{heading} {show(picture.row, name, form)}" for heading, name, form in COLUMNS)
        self._say(f"step {picture.step}/{picture.total}  {values}  left {'–' if left is None else duration(left)}")

    def _say(self, text: str) -> None:
        self._console.print(visible(text), soft_wrap=True, highlight=False, markup=False)


class LiveDisplay:
    """For terminals: the panel, and above it what people should know of; below it the last of what they were told
    before they looked."""

    def __init__(self, console: Console, picture: RunPicture) -> None:
        self._console = console
        self._picture = picture
        self._note = ""
        self._since_s = time.time()
        self._earlier: deque[Text] = deque(maxlen=_EARLIER)
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4)

    def __enter__(self) -> "LiveDisplay":
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def note(self, text: str) -> None:
        self._note = text

    def event(self, sent: RunEvent) -> None:
        if (told := self._picture.event(sent)) is None:
            return
        line = Text(told.text, style=told.style)
        if told.at_s < self._since_s:
            self._earlier.append(line)
        else:
            self._live.console.print(line)

    def snapshot(self, run: Run, pipeline: Mapping[str, Any]) -> None:
        self._picture.snapshot(run, pipeline)

    def _render(self) -> RenderableType:
        return Group(panel(self._picture, self._console.width, time.time(), self._note), *self._earlier)


class JsonDisplay:
    """For programs: a JSON line an event, with its id, kind and data; notes go to stderr."""

    def __init__(self) -> None:
        self._noted = ""

    def __enter__(self) -> "JsonDisplay":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def event(self, sent: RunEvent) -> None:
        print_json(sent._asdict())
        sys.stdout.flush()

    def snapshot(self, run: Run, pipeline: Mapping[str, Any]) -> None:
        return None

    def note(self, text: str) -> None:
        if text and text != self._noted:
            note(text)
        self._noted = text


def make_display(console: Console, run_id: str, total: int) -> Display:
    """The one that fits where `console` writes."""
    picture = RunPicture(run_id, total)
    return LiveDisplay(console, picture) if console.is_terminal else PlainDisplay(console, picture)
