"""`dapo runs samples`: groups of a run with their verdicts, and the same prompts over evaluations."""

import textwrap
from collections.abc import Sequence

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from dapo.cli.output import note, print_json
from dapo.cli.samples.answers import print_answers
from dapo.cli.samples.sources import Source
from dapo.records.answers import changed_first, collect_answers
from dapo.records.samples import Group, SampleFilter, SampleResponse, UnreadableLine
from dapo.terminal import one_line, shorten, visible

_PROMPT_CHARACTERS = 400
_RESPONSE_CHARACTERS = 600
_GOLD_CHARACTERS = 200
_EXTRACTED_CHARACTERS = 60
_UNREADABLE_SHOWN = 5


def show_groups(
    source: Source,
    set_name: str | None,
    wanted: SampleFilter,
    last: int | None,
    limit: int,
    *,
    full: bool,
    as_json: bool,
) -> None:
    """Print the newest `limit` wanted groups, newest last: of training, or of an evaluation set."""
    groups = source.recent(set_name, wanted, last, limit)
    console = Console(highlight=False)
    for group in groups:
        if as_json:
            print_json(group.sample.model_dump() | {"step": group.step})
        else:
            print_group(console, group, wanted, full=full)
    if not groups:
        note(f"no group in {source.name} is as asked for")
    _note_unreadable(source.unreadable)


def show_comparison(
    source: Source, set_name: str | None, prompt: str, last: int | None, limit: int, *, as_json: bool
) -> None:
    """Print a row a prompt and a column an evaluation of the set; where `prompt` finds one prompt alone, its responses
    in each evaluation. `last`: only so many evaluations."""
    found = source.evaluated(set_name, prompt, last)
    groups = list(found) if prompt else []
    prompts = collect_answers(groups if prompt else found)
    console = Console(highlight=False)
    if as_json:
        for one in changed_first(prompts)[:limit]:
            cells = {str(step): cell._asdict() for step, cell in one.cells.items()}
            print_json(one._asdict() | {"cells": cells, "change": one.change})
    elif prompt and len(prompts) == 1:
        for group in groups:
            print_group(console, group, SampleFilter(), full=True)
    elif prompts:
        print_answers(console, prompts, limit)
    if not prompts:
        note(f"no prompt in {source.name} is as asked for")
    _note_unreadable(source.unreadable)


def print_group(console: Console, group: Group, wanted: SampleFilter, *, full: bool) -> None:
    """With those of its responses that are wanted; `full`: texts are not shortened."""
    step, sample = group
    where = f"step {step} · " + (f"set {sample.set}" if sample.set else sample.outcome)
    count = f"{sample.correct_count} of {len(sample.responses)} correct"
    heading = f"{where} · {sample.row_id} · {sample.group_id} · {sample.grader} · {count}"
    console.print(Text(visible(heading), "bold"), soft_wrap=True)
    _print_block(console, sample.prompt, 2, "cyan", None if full else _PROMPT_CHARACTERS)
    _print_block(console, f"gold: {sample.gold}", 2, "bold", None if full else _GOLD_CHARACTERS)
    for response in wanted.responses(sample):
        console.print(_verdict(response), soft_wrap=True)
        text = "(no text: it was deleted before the group was archived)" if response.text is None else response.text
        _print_block(console, text, 6, "", None if full else _RESPONSE_CHARACTERS)
    console.print()


def _verdict(response: SampleResponse) -> Text:
    """One line: verdict, reason, extracted answer, then the numbers."""
    line = Text("  ")
    line.append(f"#{response.index} ", "dim")
    line.append("correct" if response.correct else "wrong", "bold green" if response.correct else "bold red")
    if response.truncated:
        line.append(" truncated", "bold yellow")
    line.append(f" · {visible(response.reason)}")
    if response.extracted and response.extracted != (response.text or "").strip():
        line.append(" · extracted ").append(one_line(response.extracted, _EXTRACTED_CHARACTERS, "bold"))
    line.append(f" · {_numbers(response)}", "dim")
    return line


def _numbers(response: SampleResponse) -> str:
    reward = f"reward {_number(response.reward)}"
    penalty = f" (penalty {_number(response.penalty)})" if response.penalty else ""
    oldest, newest_version = response.version_min, response.version_max
    versions = f"version {oldest}" if oldest == newest_version else f"versions {oldest}–{newest_version}"
    shown = [f"score {_number(response.score)}", reward + penalty, f"{response.tokens} tokens", versions]
    return " · ".join(shown + [f"{visible(name)} {_number(score)}" for name, score in response.parts.items()])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}"


def _print_block(console: Console, text: str, indent: int, style: str, characters: int | None) -> None:
    """Indented: wrapped within the width of a terminal, line by line as written elsewhere."""
    shown = visible(text if characters is None else shorten(text, characters)) or "(empty)"
    if console.is_terminal:
        console.print(Padding(Text(shown, style), (0, 0, 0, indent)))
    else:
        console.print(Text(textwrap.indent(shown, " " * indent), style), soft_wrap=True)


def _note_unreadable(unreadable: Sequence[UnreadableLine]) -> None:
    for one in unreadable[:_UNREADABLE_SHOWN]:
        note(f"skipped {one}")
    if len(unreadable) > _UNREADABLE_SHOWN:
        note(f"skipped {len(unreadable) - _UNREADABLE_SHOWN} more lines that are no sample")
