"""Whether what a run has done agrees with what its ledger says. Pure: a journal, a ledger and rows in, words out."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.survival.journal import Journal

_ENDS = ("trained", "filtered", "surplus", "stale", "failed", "evaluated")
_SHOWN = 5


@dataclass(frozen=True)
class Promise:
    """What the spec of a run that has succeeded promises."""

    steps: int
    prompts_per_step: int
    max_staleness: int
    filters: bool = True
    """Uniform groups are not trained on."""


def audit(
    journal: Journal, ledger: Mapping[str, int], issued: int, rows: Sequence[Mapping[str, Any]], promise: Promise
) -> list[str]:
    """Every violation in words; none where all is well.

    `ledger` counts groups by state and `issued` all of them, as summary.json has them; `rows` are of metrics.jsonl.
    """
    found: list[str] = []
    _check_issues(journal, found)
    _check_batches(journal, promise, found)
    _check_numbers("step", [report.batch for report in journal.steps], promise.steps, found)
    _check_numbers("row of metrics.jsonl", [row["step"] - 1 for row in rows], promise.steps, found)
    _check_ledger(journal, ledger, issued, found)
    _tell(found, "dead letters", (f"{group or '?'} ({reason})" for group, reason in journal.dead))
    _tell(found, "prompts that still wait", journal.waiting.values())
    return found


def trained_groups(journal: Journal) -> list[str]:
    """In the order of training, those of batches whose step was recorded."""
    recorded = {report.batch for report in journal.steps}
    return [group.group_id for batch in journal.batches if batch.batch in recorded for group in batch.groups]


def uniform_groups(journal: Journal) -> set[str]:
    """Scored groups whose responses are all correct or all wrong."""
    complete = {
        group_id: grades
        for group_id, grades in journal.grades.items()
        if group_id in journal.issued and len(grades) == journal.issued[group_id].group_size
    }
    return {group_id for group_id, grades in complete.items() if len(set(grades.values())) == 1}


def _check_issues(journal: Journal, found: list[str]) -> None:
    """Each prompt of the data is issued once, in order and without a gap."""
    _tell(found, "groups issued twice", journal.issued_again)
    places = [(task.epoch, task.cursor) for task in journal.issued.values() if not task.evaluation]
    _tell(found, "prompts issued twice", (str(place) for place, count in Counter(places).items() if count > 1))
    by_epoch: dict[int, set[int]] = {}
    for epoch, cursor in places:
        by_epoch.setdefault(epoch, set()).add(cursor)
    for epoch, cursors in by_epoch.items():
        _tell(found, f"prompts of epoch {epoch} left out", map(str, sorted(set(range(max(cursors))) - cursors)))


def _check_batches(journal: Journal, promise: Promise, found: list[str]) -> None:
    batches = [batch for batch in journal.batches if not batch.end]
    _check_numbers("batch", [batch.batch for batch in batches], promise.steps, found)
    uniform = uniform_groups(journal) if promise.filters else set()
    seen: Counter[str] = Counter()
    for batch in batches:
        if len(batch.groups) != promise.prompts_per_step:
            found.append(f"batch {batch.batch} has {len(batch.groups)} groups, not {promise.prompts_per_step}")
        for group in batch.groups:
            seen[group.group_id] += 1
            what = f"batch {batch.batch}, group {group.group_id}"
            task = journal.issued.get(group.group_id)
            if task is None:
                found.append(f"{what}: it was never issued")
                continue
            if group.group_id in uniform:
                found.append(f"{what}: its responses are all right or all wrong")
            if not 0 <= batch.batch - task.issued_version <= promise.max_staleness:
                found.append(f"{what}: issued at version {task.issued_version}")
            if len(group.samples) != task.group_size:
                found.append(f"{what}: {len(group.samples)} samples of {task.group_size}")
            for index in range(task.group_size):
                completion = journal.completions.get((group.group_id, index))
                if completion is None or index not in journal.grades.get(group.group_id, {}):
                    found.append(f"{what}: response {index} was never generated and graded")
                elif not task.issued_version <= completion.version_min <= completion.version_max <= batch.batch:
                    found.append(f"{what}: response {index} was sampled by {completion.version_min} and later")
    _tell(found, "groups in several batches", (group_id for group_id, count in seen.items() if count > 1))


def _check_numbers(what: str, numbers: Sequence[int], count: int, found: list[str]) -> None:
    if list(numbers) == list(range(count)):
        return
    twice = [number for number, times in Counter(numbers).items() if times > 1]
    missing = sorted(set(range(count)) - set(numbers))
    found.append(f"{what} numbers: {len(numbers)} of {count}, twice {twice[:_SHOWN]}, missing {missing[:_SHOWN]}")


def _check_ledger(journal: Journal, ledger: Mapping[str, int], issued: int, found: list[str]) -> None:
    ends = {state: ledger.get(state, 0) for state in _ENDS}
    trained, uniform = len(trained_groups(journal)), len(uniform_groups(journal))
    if len(journal.issued) != issued:
        found.append(f"{len(journal.issued)} groups were issued, the ledger counts {issued}")
    if ends["trained"] != trained:
        found.append(f"{trained} groups were trained on, the ledger counts {ends['trained']}")
    if ends["filtered"] > uniform:
        found.append(f"{uniform} groups are uniform, the ledger counts {ends['filtered']} as filtered")
    if sum(ends.values()) != len(journal.issued):
        found.append(f"{len(journal.issued)} groups were issued, {sum(ends.values())} have come to an end: {ends}")
    if ends["failed"]:
        found.append(f"{ends['failed']} groups failed")
    open_states = {state: count for state, count in ledger.items() if count and state not in _ENDS and state != "total"}
    if open_states:
        found.append(f"groups wait after the drain: {open_states}")


def _tell(found: list[str], what: str, names: Iterable[str]) -> None:
    listed = list(names)
    if listed:
        more = ", …" if len(listed) > _SHOWN else ""
        found.append(f"{len(listed)} {what}: {', '.join(listed[:_SHOWN])}{more}")
