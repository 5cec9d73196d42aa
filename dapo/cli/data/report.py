"""What `dapo data` prints: tables, a text histogram, samples."""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from dapo.data.inspection import Distribution, Inspection
from dapo.data.preparation import PreparationReport
from dapo.data.rows import Fields, Row
from dapo.terminal import visible

_BAR = 40
_SAMPLE_CHARACTERS = 1500
_REASONS = {
    "malformed": "malformed",
    "bad_gold": "a gold answer that no response can honestly meet",
    "duplicate": "repeat an earlier prompt",
    "conflicting": "repeat an earlier prompt with another answer",
    "excluded": "asked in a dataset of --exclude",
    "too_long": "longer than --max-prompt-tokens",
    "refused": "refused by the chat template",
}


def print_json(report: Inspection | PreparationReport) -> None:
    sys.stdout.write(json.dumps(_plain(report), indent=2) + "\n")


def print_inspection(found: Inspection) -> None:
    console = Console(highlight=False)
    console.print(_facts(found))
    _list(console, "malformed", found.malformed, [str(one) for one in found.first_malformed])
    _list(console, "gold answer that no response can honestly meet", found.bad_golds, found.first_bad_golds)
    conflicts = [f"{one.row_id} asks as {one.first_row_id} does" for one in found.first_conflicts]
    _list(console, "same prompt, another answer", found.conflicts, conflicts)
    console.print(Text("\nprompt length in characters", style="bold"), _histogram(found.characters, console.width))
    if found.tokens is not None:
        console.print(Text("\nprompt length in tokens", style="bold"), _histogram(found.tokens, console.width))
    if found.refused:
        console.print(Text(f"\n{found.refused} prompts are refused by the model's chat template", style="red"))
    for row, rendered in zip_longest(found.samples, found.rendered):
        console.print(_sample(row, rendered))


def print_preparation(report: PreparationReport, out: Path, held_out: Path, fields: Fields) -> None:
    console = Console(highlight=False)
    console.print(f"read      {report.rows:,} rows, schema {fields.schema}")
    console.print(_safe(f"written   {report.written:,} to {out}"), soft_wrap=True)
    if report.held_out:
        console.print(_safe(f"held out  {report.held_out:,} to {held_out}"), soft_wrap=True)
    for reason, count in report.dropped.most_common():
        _list(console, f"left out: {_REASONS[reason]}", count, report.first_dropped[reason])


def _facts(found: Inspection) -> Table:
    fields = found.fields
    table = _grid()
    table.add_row("data", _safe(found.path))
    after = f", after {fields.gold_after!r}" if fields.gold_after is not None else ""
    table.add_row("schema", _safe(f"{fields.schema}: prompt in {fields.prompt}, gold answer in {fields.gold}{after}"))
    table.add_row("columns", _safe(", ".join(found.columns)))
    table.add_row("rows", f"{found.rows:,}, of which {found.usable:,} usable and {found.malformed:,} malformed")
    table.add_row("duplicates", f"{found.duplicates:,} rows, {found.conflicts:,} of them with another gold answer")
    table.add_row("prompts", _counts(found.prompts))
    table.add_row("gold answers", _counts(found.golds))
    if found.graders:
        table.add_row("graders", _counts(found.graders))
    return table


def _grid() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _counts(counts: Mapping[str, int]) -> Text:
    return _safe(", ".join(f"{count:,} {name}" for name, count in counts.items()))


def _list(console: Console, title: str, count: int, first: Sequence[str]) -> None:
    if not count:
        return
    console.print(Text(f"\n{count:,} × {title}", style="bold yellow"))
    for line in first:
        console.print(_safe(f"  {line}"), soft_wrap=True)
    if count > len(first):
        console.print(f"  … and {count - len(first):,} more")


def _histogram(lengths: Distribution, room: int) -> Group:
    """In a terminal of `room` characters; its bars take what the numbers leave."""
    quantiles = ", ".join(f"{name} {value:,}" for name, value in lengths.quantiles.items())
    summary = f"  {lengths.minimum:,} to {lengths.maximum:,}, mean {lengths.mean:,.1f}, {quantiles}"
    most = max(count for _, count in lengths.bins)
    width = len(f"{lengths.maximum:,}")
    bar = max(1, min(_BAR, room - width - len(f"  ≤   {most:,}")))
    lines = [f"  ≤ {bound:>{width},} {'█' * -(-count * bar // most):<{bar}} {count:,}" for bound, count in lengths.bins]
    return Group(*map(Text, [summary, *lines]))


def _sample(row: Row, rendered: str | None) -> Panel:
    body = Text()
    for message in row.prompt.messages:
        body.append(f"{message.role}: ", style="bold cyan").append_text(_safe(_shortened(message.content))).append("\n")
    if not row.prompt.messages:
        body.append_text(_safe(_shortened(row.prompt.text))).append("\n")
    body.append("gold: ", style="bold green").append_text(_safe(_shortened(row.gold)))
    if row.grader is not None:
        body.append("\ngrader: ", style="bold").append_text(_safe(row.grader))
    if rendered is not None:
        body.append("\nthe model reads: ", style="bold magenta").append_text(_safe(_shortened(rendered)))
    return Panel(body, title=_safe(row.row_id), title_align="left")


def _shortened(text: str) -> str:
    return text if len(text) <= _SAMPLE_CHARACTERS else f"{text[:_SAMPLE_CHARACTERS]}… ({len(text):,} characters)"


def _safe(text: str) -> Text:
    return Text(visible(text))


def _plain(value: Any) -> Any:
    """As JSON takes it."""
    if dataclasses.is_dataclass(value):
        return {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Row):
        prompt = [{"role": one.role, "content": one.content} for one in value.prompt.messages] or value.prompt.text
        return {**value._asdict(), "prompt": prompt}
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return value
