"""A picture of a run as a terminal shows it, of any width."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dapo.cli.display.picture import CURVES, RunPicture
from dapo.cli.display.words import COLUMNS, duration, show
from dapo.terminal import Column, WideTable, sparkline, visible

_BAR_WIDTH = 50
"""Of a terminal that has room for a bar between the numbers of a step."""
_LEAST_CURVE = 8
_GENERATORS = 6
_STATE_STYLES = {"succeeded": "green", "failed": "red", "stopped": "yellow", "cancelled": "yellow", "queued": "cyan"}
_WAITING_FOR = {"generation": "prompts", "grading": "completions", "training": "scored"}
"""The stream before each stage; before training it is the orchestrator that reads it."""


def panel(picture: RunPicture, width: int, now_s: float, note: str = "") -> RenderableType:
    """`now_s`: since 1970. `note` stands in place of what the run waits for."""
    return Group(*_parts(picture, width, now_s, note))


def _parts(picture: RunPicture, width: int, now_s: float, note: str) -> Iterator[RenderableType]:
    yield _head(picture)
    if picture.total:
        yield _steps(picture, width, now_s)
    yield Text(visible(note) or picture.awaited, style="cyan")
    if picture.total:
        columns = [Column(heading) for heading, _, _ in COLUMNS]
        yield WideTable(columns, [[Text(show(picture.row, name, form)) for _, name, form in COLUMNS]])
    yield from _curves(picture, width)
    if picture.pipeline:
        yield from _pipeline(picture.pipeline)


def _head(picture: RunPicture) -> RenderableType:
    found = Text.assemble(("run ", "dim"), visible(picture.run_id))
    if picture.state:
        found.append(f"  {visible(picture.state)}", _STATE_STYLES.get(picture.state, "bold"))
    if picture.message and picture.state != "queued":
        found.append(f": {visible(picture.message)}")
    return found


def _steps(picture: RunPicture, width: int, now_s: float) -> RenderableType:
    """The bar; its numbers alone where it has no room."""
    left = picture.left_s()
    numbers = f"step {picture.step}/{picture.total}"
    times = f"{duration(picture.elapsed_s(now_s))}  left {'–' if left is None else duration(left)}"
    if width < _BAR_WIDTH:
        return Text(f"{numbers}  {times}")
    line = Table.grid(padding=(0, 1), expand=True)
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    line.add_row(Text(numbers), ProgressBar(total=picture.total, completed=picture.step), Text(times))
    return line


def _curves(picture: RunPicture, width: int) -> Iterator[RenderableType]:
    for heading, name, form in CURVES:
        values = picture.curve(name)
        if len(values) < 2:
            continue
        ends = f"{form} → {form}".format(values[0], values[-1])
        room = max(_LEAST_CURVE, width - len(f"{heading:<8}   {ends}"))
        yield Text.assemble(f"{heading:<8} ", (sparkline(values, room), "green"), f"  {ends}")


def _pipeline(pipeline: Mapping[str, Any]) -> Iterator[RenderableType]:
    slowest = pipeline["bottleneck"]
    if pipeline["live"]:
        columns = [Column("stage", text=True, least=12), Column("waiting"), Column("oldest"), Column("who", text=True)]
        yield WideTable(columns, _stages(pipeline, slowest["stage"] if slowest else ""), keys=1)
    if slowest:
        yield Text.assemble(("slowest: ", "dim"), visible(f"{slowest['stage']}, {slowest['text']}"))
    if pipeline["generators"]:
        yield from _generators(pipeline["generators"])


def _stages(pipeline: Mapping[str, Any], slowest: str) -> list[list[Text]]:
    streams = {stream["name"]: stream for stream in pipeline["streams"]}
    rows = []
    for stage, who in _workers(pipeline).items():
        stream = streams.get(_WAITING_FOR.get(stage, ""))
        oldest = stream["oldest_s"] if stream else None
        style = "bold yellow" if stage == slowest else ""
        rows.append(
            [
                Text(f"{'▶' if stage == slowest else ' '} {stage}", style),
                Text(f"{stream['depth']:,}" if stream else "–"),
                Text("–" if oldest is None else f"{oldest:.0f} s"),
                Text(who),
            ]
        )
    return rows


def _workers(pipeline: Mapping[str, Any]) -> dict[str, str]:
    """Who works at each stage, and how it goes there."""
    generators, verifiers, learner = pipeline["generators"], pipeline["verifiers"], pipeline["learner"]
    ready = sum(one["state"] == "ready" for one in generators)
    found = {"generation": f"{ready} of {len(generators)} generators ready"}
    if verifiers:
        found["grading"] = f"{len(verifiers['alive'])} of {len(verifiers['wanted'])} verifiers"
    if learner:
        doing = "trains" if learner["training"] else "waits for"
        found["training"] = f"{doing} step {learner['step']}"
        found["weights"] = "none sent yet" if pipeline["version"] is None else f"version {pipeline['version']}"
    return found


def _generators(generators: list[dict[str, Any]]) -> Iterator[RenderableType]:
    columns = [Column("generator", text=True, whole=True), Column("state", text=True), Column("version")]
    columns += [Column("requests"), Column("busy")]
    # Those that are not as they should be come first.
    ranked = sorted(generators, key=lambda one: one["state"] == "ready")
    rows = [
        [
            Text(visible(one["id"])),
            Text(visible(one["state"])),
            Text("–" if one["version"] is None else str(one["version"])),
            Text(f"{one['running']:,}"),
            Text("–" if one["busy_share"] is None else f"{100 * one['busy_share']:.0f} %"),
        ]
        for one in ranked[:_GENERATORS]
    ]
    yield WideTable(columns, rows, keys=1)
    if rest := ranked[_GENERATORS:]:
        ready = sum(one["state"] == "ready" for one in rest)
        yield Text(f"and {len(rest)} more, {ready} of them ready", style="dim")
