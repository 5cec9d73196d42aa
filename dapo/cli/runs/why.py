"""`dapo runs why` and `dapo runs dead-letters`: what became of a group, and what was taken out of circulation."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import typer
from rich.console import Console
from rich.text import Text

from dapo.cli.errors import fail
from dapo.cli.output import note, print_json
from dapo.cli.runs.where import RunPlace
from dapo.cli.samples.show import print_group
from dapo.records.explained import elapsed, steps_of, summary, what_happened
from dapo.records.explanations import GroupExplanation, GroupResponse
from dapo.records.folder import RunFolder
from dapo.records.group_archive import DeadLetter, read_archived_group, read_dead_letters
from dapo.records.samples import Group, SampleFilter, evaluation_files, evaluation_sets, read_groups, training_files
from dapo.terminal import Column, WideTable, one_line, shorten, visible

_PROMPT_CHARACTERS = 400


class _Found(NamedTuple):
    """Of a group, from the best source there is."""

    record: GroupExplanation | None = None
    sample: Group | None = None
    note: str = ""
    """What is to be known about the source."""


def show_why(place: RunPlace, group_id: str, *, as_json: bool) -> None:
    """Print what is known of a group; leaves with a message where that is nothing."""
    found = place.ask_or(
        lambda client, run_id: _Found(GroupExplanation.model_validate(client.explain(run_id, group_id))),
        lambda folder: _from_folder(folder, group_id),
    )
    if found.note:
        note(found.note)
    console = Console(highlight=False)
    if found.record is not None:
        if as_json:
            print_json(found.record.model_dump(mode="json"))
        else:
            _print_record(console, found.record)
    elif found.sample is not None:
        if as_json:
            print_json(found.sample.sample.model_dump() | {"step": found.sample.step})
        else:
            print_group(console, found.sample, SampleFilter(), full=False)


def _from_folder(folder: Path, group_id: str) -> _Found:
    archive = RunFolder(folder).groups
    try:
        if (record := read_archived_group(folder, group_id)) is not None:
            return _Found(record, note=f"as {archive} has it, of when the run ended")
    except ValueError as error:
        fail(str(error))
    there = f"{archive} does not have it" if archive.exists() else f"there is no {archive}: {_unwritten(folder)}"
    for group in _samples(folder):
        if group.sample.group_id == group_id:
            return _Found(sample=group, note=f"{there}. It is among the run's samples, which tell less:")
    fail(f"nothing is known of group {group_id} in {folder}: {there}, and it is not among its samples")


def _unwritten(folder: Path) -> str:
    if RunFolder(folder).summary.exists():
        return "the run's Redis did not answer at its end, or it is a run of an older release"
    return "the run goes on with another service (give its --url), or was killed before its end"


def _samples(folder: Path) -> Iterator[Group]:
    yield from read_groups(training_files(folder), [])
    for name in evaluation_sets(folder):
        yield from read_groups(evaluation_files(folder, name), [])


def _print_record(console: Console, group: GroupExplanation) -> None:
    heading = (
        f"{group.group_id} · {group.state} · {group.row_id} · {group.grader} · issued at version {group.issued_version}"
    )
    console.print(Text(visible(heading), "bold"), soft_wrap=True)
    for sentence in summary(group):
        console.print(Text(visible(sentence)), soft_wrap=True)
    console.print(Text(visible(f"\nprompt: {shorten(group.prompt, _PROMPT_CHARACTERS)}"), "cyan"), soft_wrap=True)
    console.print(Text(visible(f"gold: {shorten(group.gold, _PROMPT_CHARACTERS)}\n"), "bold"), soft_wrap=True)
    for one, since_s in zip(group.happenings, elapsed(group.happenings), strict=True):
        line = Text(f"{one.at}  {since_s:>+9.3f} s  ", "dim").append(visible(what_happened(one)), "none")
        console.print(line, soft_wrap=True)
        if one is group.happenings[0] and group.happenings_lost:
            console.print(Text(f"… {group.happenings_lost} more were dropped here", "dim"), soft_wrap=True)
    if group.responses:
        console.print()
        console.print(_responses(group.responses))


def _responses(responses: Sequence[GroupResponse]) -> WideTable:
    columns = [
        Column("#"),
        Column("generator", text=True),
        Column("delivery, try"),
        Column("tokens"),
        Column("weights", text=True),
        Column("verdict", text=True),
        Column("reward"),
        Column("extracted", text=True),
    ]
    return WideTable(columns, [_row(response) for response in responses], keys=1)


def _row(response: GroupResponse) -> list[Text]:
    verdict = response.verdict
    cells = [
        Text(str(response.index)),
        one_line(response.generator, 40),
        Text(f"{response.delivery}, {response.retry}"),
        Text(f"{response.tokens}{' cut' if response.truncated else ''}"),
        one_line(steps_of(response), 80),
    ]
    if verdict is None:
        return [*cells, Text("not graded yet", "dim"), Text(""), Text("")]
    word, style = ("correct", "green") if verdict.correct else ("wrong", "red")
    reward = "–" if verdict.reward is None else f"{verdict.reward:.3g}"
    return [*cells, one_line(f"{word}: {verdict.reason}", 60, style), Text(reward), one_line(verdict.extracted, 30)]


def show_dead_letters(place: RunPlace, count: int, *, as_json: bool) -> None:
    """Print what was taken out of circulation, newest first."""
    letters = place.ask_or(
        lambda client, run_id: [DeadLetter.model_validate(one) for one in client.dead_letters(run_id, count)],
        lambda folder: _letters(folder, count),
    )
    console = Console(highlight=False)
    for letter in letters:
        if as_json:
            print_json(letter.model_dump(mode="json"))
            continue
        heading = f"{letter.at} · {letter.group or 'no group'} · {letter.reason}"
        console.print(Text(visible(heading), "bold"), soft_wrap=True)
        for line in (letter.explanation, letter.detail):
            if line:
                console.print(Text(f"  {visible(shorten(line, _PROMPT_CHARACTERS))}"), soft_wrap=True)
    if not letters:
        note(f"run {place.run_id} has no dead letter")


def requeue(place: RunPlace, group_id: str, *, as_json: bool) -> None:
    """Have a failed group's prompt issued once more; leaves with a message where that is refused."""
    place.ask(lambda client, run_id: client.requeue(run_id, group_id))
    if as_json:
        print_json({"group": group_id, "requeued": True})
    else:
        typer.echo(
            f"the prompt of {group_id} is issued once more as soon as there is room; `dapo runs why` tells as what"
        )


def _letters(folder: Path, count: int) -> list[DeadLetter]:
    if not RunFolder(folder).summary.exists():
        fail(f"{folder} has no dead letters yet, they are written at the run's end: {_unwritten(folder)}")
    try:
        return read_dead_letters(folder)[: -count - 1 : -1]
    except ValueError as error:
        fail(str(error))
