"""A cleaned copy of a source: without malformed rows, duplicates, gold answers that cannot be met, prompts that
are too long or asked in an evaluation.

The copy has the fields `prompt` (text or messages), `answer` (text, or JSON as text), `grader` where rows name one, and
`origin` (file and line of the row it was made of).
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from dapo.data.errors import DatasetError, Malformed
from dapo.data.locations import HELD_OUT_SPLIT
from dapo.data.outputs import check_output, open_output
from dapo.data.rows import Row, is_held_out
from dapo.data.source import GoldCheck, Scanned, Source, with_problems
from dapo.data.tokens import PromptTokens
from dapo.spec.paths import DATA_SUFFIXES

_SHOWN = 5
_BATCH = 256


@dataclass(frozen=True)
class Filters:
    keep_duplicates: bool = False
    excluded: Set[bytes] = frozenset()
    """Hashes of prompts that must not be in the copy."""
    counter: PromptTokens | None = None
    max_prompt_tokens: int | None = None
    check: GoldCheck | None = None
    """Tells which gold answers no response can honestly meet."""


@dataclass
class PreparationReport:
    """What became of the rows: `rows` = `written` + `held_out` + all that is dropped."""

    rows: int = 0
    written: int = 0
    held_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """malformed, bad_gold, duplicate, conflicting (a duplicate with another gold answer), excluded, too_long,
    refused."""
    first_dropped: dict[str, list[str]] = field(default_factory=dict)
    """By reason, what the first rows were."""

    def drop(self, reason: str, what: str) -> None:
        self.dropped[reason] += 1
        first = self.first_dropped.setdefault(reason, [])
        if len(first) < _SHOWN:
            first.append(what)


def held_out_path(out: Path) -> Path:
    """`train.jsonl` → `train.held-out.jsonl`."""
    return out.with_name(f"{out.stem}.{HELD_OUT_SPLIT}{out.suffix}")


def prepare(
    source: Source,
    items: Iterable[Scanned | Malformed],
    out: Path,
    filters: Filters,
    *,
    held_out: float = 0.0,
    also_read: Sequence[Path] = (),
    force: bool = False,
) -> PreparationReport:
    """Write `out`, and beside it the held-out share of the prompts; files appear when they are whole, or not at all.

    `items` is `source.scan()`, perhaps within a progress bar. Raises DatasetError where a file is there already (unless
    `force`), is one of the source's or of `also_read`, has another format, or would hold no row; OSError where it
    cannot be written.
    """
    paths = [out, held_out_path(out)] if held_out else [out]
    for path in paths:
        check_output(path, DATA_SUFFIXES, [*source.table.files, *also_read], force=force)
    report = PreparationReport()
    with ExitStack() as stack:
        outputs = [stack.enter_context(open_output(path)) for path in paths]
        for scanned in _kept(source, items, filters, report):
            is_kept_back = bool(held_out) and is_held_out(scanned.hash, held_out)
            outputs[is_kept_back].write(_fields(scanned.row))
            report.held_out += is_kept_back
            report.written += not is_kept_back
        if not report.written or (held_out and not report.held_out):
            raise DatasetError(
                f"nothing was written: of {report.rows} rows {report.written} are left for {out.name}"
                + (f" and {report.held_out} for {paths[1].name}" if held_out else "")
                + f"; dropped: {_reasons(report)}"
            )
        # All are on the disk before the first of them appears.
        for output in outputs:
            output.finish()
    return report


def _kept(
    source: Source, items: Iterable[Scanned | Malformed], filters: Filters, report: PreparationReport
) -> Iterator[Scanned]:
    rows = _distinct(source, _gradable(items, filters, report), filters, report)
    while batch := list(islice(rows, _BATCH)):
        yield from _short_enough(batch, filters, report)


def _gradable(items: Iterable[Scanned | Malformed], filters: Filters, report: PreparationReport) -> Iterator[Scanned]:
    for item, problem in with_problems(items, filters.check):
        report.rows += 1
        if isinstance(item, Malformed):
            report.drop("malformed", str(item))
        elif problem:
            report.drop("bad_gold", problem)
        else:
            yield item


def _distinct(
    source: Source, items: Iterable[Scanned], filters: Filters, report: PreparationReport
) -> Iterator[Scanned]:
    first: dict[bytes, tuple[int, int]] = {}
    for item in items:
        row_id, gold = item.row.row_id, hash(item.row.gold)
        if item.hash in filters.excluded:
            report.drop("excluded", row_id)
            continue
        original, its_gold = first.setdefault(item.hash, (item.number, gold))
        if original == item.number or filters.keep_duplicates:
            yield item
        elif gold == its_gold:
            report.drop("duplicate", f"{row_id} repeats {source.row_id(original)}")
        else:
            report.drop("conflicting", f"{row_id} asks as {source.row_id(original)} does and has another answer")


def _short_enough(batch: list[Scanned], filters: Filters, report: PreparationReport) -> Iterator[Scanned]:
    limit = filters.max_prompt_tokens
    if filters.counter is None or limit is None:
        yield from batch
        return
    for item, tokens in zip(batch, filters.counter.count([one.row.prompt for one in batch]), strict=True):
        if tokens is None:
            report.drop("refused", f"{item.row.row_id}: the chat template refuses the messages")
        elif tokens > limit:
            report.drop("too_long", f"{item.row.row_id}: {tokens} tokens")
        else:
            yield item


def _reasons(report: PreparationReport) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in report.dropped.most_common()) or "none"


def _fields(row: Row) -> dict[str, Any]:
    messages = [{"role": message.role, "content": message.content} for message in row.prompt.messages]
    return {"prompt": messages or row.prompt.text, "answer": row.gold, "grader": row.grader, "origin": row.row_id}
