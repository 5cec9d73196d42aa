"""`dapo runs samples`: groups of a run with their verdicts, and the same prompts over evaluations."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from dapo.cli.errors import fail
from dapo.cli.runs.answers import print_answers
from dapo.records.answers import changed_first, collect_answers
from dapo.records.samples import (
    Group,
    SampleFile,
    SampleFilter,
    SampleResponse,
    UnreadableLine,
    evaluation_files,
    evaluation_sets,
    last_steps,
    newest,
    read_groups,
    training_files,
)
from dapo.terminal import one_line, shorten, visible

_PROMPT_CHARACTERS = 400
_RESPONSE_CHARACTERS = 600
_GOLD_CHARACTERS = 200
_EXTRACTED_CHARACTERS = 60
_UNREADABLE_SHOWN = 5


def show_groups(
    run_dir: Path,
    set_name: str | None,
    wanted: SampleFilter,
    last: int | None,
    limit: int,
    *,
    full: bool,
    as_json: bool,
) -> None:
    """Print the newest `limit` wanted groups, newest last: of training, or of an evaluation set.

    Of a set they come from its last evaluation unless `wanted.steps` or `last`, a number of steps, says otherwise.
    """
    unreadable: list[UnreadableLine] = []
    if set_name is None:
        files = _training_files(run_dir)
        if last is not None:
            wanted = wanted._replace(steps=last_steps(read_groups(files, []), last))
    else:
        files = _evaluation_files(run_dir, set_name)
        steps = wanted.steps
        files = files[-(last or 1) :] if steps is None else [file for file in files if file.step in steps]
    groups = newest(read_groups(files, unreadable), wanted, limit)
    console = Console(highlight=False)
    for group in groups:
        if as_json:
            print_json(group.sample.model_dump() | {"step": group.step})
        else:
            print_group(console, group, wanted, full=full)
    if not groups:
        _note(f"no group in {run_dir} is as asked for")
    _note_unreadable(unreadable)


def show_comparison(
    run_dir: Path, set_name: str | None, prompt: str, last: int | None, limit: int, *, as_json: bool
) -> None:
    """Print a row a prompt and a column an evaluation of the set; where `prompt` finds one prompt alone, its responses
    in each evaluation. `last`: only so many evaluations."""
    files = _evaluation_files(run_dir, set_name or _only_set(run_dir))
    files = files if last is None else files[-last:]
    wanted = SampleFilter(prompt=prompt)
    unreadable: list[UnreadableLine] = []
    found = (group for group in read_groups(files, unreadable) if wanted.group(group))
    groups = list(found) if prompt else []
    prompts = collect_answers(groups if prompt else found)
    console = Console(highlight=False)
    if as_json:
        for one in changed_first(prompts)[:limit]:
            cells = {str(step): cell._asdict() for step, cell in one.cells.items()}
            print_json(one._asdict() | {"cells": cells, "change": one.change})
    elif prompt and len(prompts) == 1:
        for group in groups:
            print_group(console, group, wanted, full=True)
    elif prompts:
        print_answers(console, prompts, limit)
    if not prompts:
        _note(f"no prompt in {run_dir} is as asked for")
    _note_unreadable(unreadable)


def _training_files(run_dir: Path) -> list[SampleFile]:
    _require_folder(run_dir)
    files = training_files(run_dir)
    if not files:
        sets = evaluation_sets(run_dir)
        elsewhere = f". It has evaluations: give --set {' or --set '.join(map(visible, sets))}" if sets else ""
        fail(
            f"{run_dir} has no samples.jsonl: no group was scored yet, or metrics.sample_groups_per_step in its "
            f"spec.yaml is 0 (default 4){elsewhere}"
        )
    return files


def _evaluation_files(run_dir: Path, set_name: str) -> list[SampleFile]:
    _require_folder(run_dir)
    sets = evaluation_sets(run_dir)
    if set_name not in sets:
        there = f"has {', '.join(map(visible, sets))}" if sets else "has no evaluation yet"
        fail(f"--set {set_name}: {run_dir} {there}")
    return evaluation_files(run_dir, set_name)


def _only_set(run_dir: Path) -> str:
    _require_folder(run_dir)
    sets = evaluation_sets(run_dir)
    if len(sets) != 1:
        there = (
            f"has several sets: give --set {' or --set '.join(map(visible, sets))}" if sets else "has no evaluation yet"
        )
        fail(f"--compare: {run_dir} {there}")
    return sets[0]


def _require_folder(run_dir: Path) -> None:
    if not run_dir.is_dir():
        fail(f"there is no run folder {run_dir}; runs of this machine lie under runs/ unless --run-dir said otherwise")


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


def print_json(value: Mapping[str, Any]) -> None:
    """In ASCII, so that nothing in it can steer a terminal."""
    typer.echo(json.dumps(value))


def _note_unreadable(unreadable: Sequence[UnreadableLine]) -> None:
    for one in unreadable[:_UNREADABLE_SHOWN]:
        _note(f"skipped {one}")
    if len(unreadable) > _UNREADABLE_SHOWN:
        _note(f"skipped {len(unreadable) - _UNREADABLE_SHOWN} more lines that are no sample")


def _note(text: str) -> None:
    typer.echo(visible(text), err=True)
