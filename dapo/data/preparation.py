"""A cleaned copy of a source: without malformed rows, duplicates, prompts that are too long or asked in an evaluation.

The copy has the fields `prompt` (text or messages), `answer` (text, or JSON as text), `grader` where rows name one, and
`origin` (file and line of the row it was made of).
"""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from dapo.data.errors import DatasetError, Malformed
from dapo.data.locations import HELD_OUT
from dapo.data.rows import Row, is_held_out
from dapo.data.source import Scanned, Source
from dapo.data.tokens import PromptTokens
from dapo.spec.paths import DATA_SUFFIXES

SHOWN = 5
_BATCH = 256


@dataclass(frozen=True)
class Filters:
    keep_duplicates: bool = False
    excluded: Set[bytes] = frozenset()
    """Hashes of prompts that must not be in the copy."""
    counter: PromptTokens | None = None
    max_prompt_tokens: int | None = None


@dataclass
class Report:
    """What became of the rows: `rows` = `written` + `held_out` + all that is dropped."""

    rows: int = 0
    written: int = 0
    held_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    """malformed, duplicate, conflicting (a duplicate with another gold answer), excluded, too_long, refused."""
    first_dropped: dict[str, list[str]] = field(default_factory=dict)
    """By reason, what the first rows were."""

    def drop(self, reason: str, what: str) -> None:
        self.dropped[reason] += 1
        first = self.first_dropped.setdefault(reason, [])
        if len(first) < SHOWN:
            first.append(what)


def held_out_path(out: Path) -> Path:
    """`train.jsonl` → `train.held-out.jsonl`."""
    return out.with_name(f"{out.stem}.{HELD_OUT}{out.suffix}")


def prepare(
    source: Source,
    items: Iterable[Scanned | Malformed],
    out: Path,
    filters: Filters,
    *,
    held_out: float = 0.0,
    force: bool = False,
) -> Report:
    """Write `out`, and beside it the held-out share of the prompts; files appear when they are whole, or not at all.

    `items` is `source.scan()`, perhaps within a progress bar. Raises DatasetError where a file is there already (unless
    `force`), is one of the source's, has another format, or would hold no row.
    """
    paths = [out, held_out_path(out)] if held_out else [out]
    for path in paths:
        _check_output(path, source, force)
    report = Report()
    with ExitStack() as stack:
        outputs = [stack.enter_context(_Output(path)) for path in paths]
        for scanned in _kept(source, items, filters, report):
            is_kept_back = bool(held_out) and is_held_out(scanned.hash, held_out)
            outputs[is_kept_back].write(scanned.row)
            report.held_out += is_kept_back
            report.written += not is_kept_back
        if not report.written or (held_out and not report.held_out):
            raise DatasetError(
                f"nothing was written: of {report.rows} rows {report.written} are left for {out.name}"
                + (f" and {report.held_out} for {paths[1].name}" if held_out else "")
                + f"; dropped: {_reasons(report)}"
            )
        for output in outputs:
            output.finish()
        for output in reversed(outputs):
            output.publish()
    return report


def _kept(source: Source, items: Iterable[Scanned | Malformed], filters: Filters, report: Report) -> Iterator[Scanned]:
    rows = _distinct(source, items, filters, report)
    while batch := list(islice(rows, _BATCH)):
        yield from _short_enough(batch, filters, report)


def _distinct(
    source: Source, items: Iterable[Scanned | Malformed], filters: Filters, report: Report
) -> Iterator[Scanned]:
    first: dict[bytes, tuple[int, int]] = {}
    for item in items:
        report.rows += 1
        if isinstance(item, Malformed):
            report.drop("malformed", str(item))
            continue
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


def _short_enough(batch: list[Scanned], filters: Filters, report: Report) -> Iterator[Scanned]:
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


def _reasons(report: Report) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in report.dropped.most_common()) or "none"


def _check_output(path: Path, source: Source, force: bool) -> None:
    if path.suffix.lower() not in DATA_SUFFIXES:
        raise DatasetError(f"{path} must end in {' or '.join(DATA_SUFFIXES)}")
    if not path.parent.is_dir():
        raise DatasetError(f"{path.parent} is not a folder: make it first")
    if path.is_dir():
        raise DatasetError(f"{path} is a folder: give the name of a file")
    if any(path.resolve() == file.resolve() for file in source.table.files):
        raise DatasetError(f"{path} is what is read: give another name")
    if path.exists() and not force:
        raise DatasetError(f"{path} is there already: give --force to replace it, or another name")


class _Writer(Protocol):
    def write(self, row: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class _Output:
    """A file under a temporary name, renamed when it is whole; leaving the context removes what was not published."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        self._writer: _Writer
        if path.suffix.lower() == ".jsonl":
            self._writer = _JsonLinesWriter(self._temporary)
        else:
            self._writer = _ParquetWriter(self._temporary, path.name)

    def __enter__(self) -> "_Output":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()
        self._temporary.unlink(missing_ok=True)

    def write(self, row: Row) -> None:
        messages = [{"role": message.role, "content": message.content} for message in row.prompt.messages]
        self._writer.write(
            {"prompt": messages or row.prompt.text, "answer": row.gold, "grader": row.grader, "origin": row.row_id}
        )

    def finish(self) -> None:
        self._writer.close()
        with self._temporary.open("rb") as file:
            os.fsync(file.fileno())

    def publish(self) -> None:
        self._temporary.replace(self._path)


class _JsonLinesWriter:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, row: dict[str, Any]) -> None:
        filled = {name: value for name, value in row.items() if value is not None}
        self._file.write(json.dumps(filled, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class _ParquetWriter:
    """Row groups of _ROWS; the prompts' type is that of the first row."""

    _ROWS = 4096

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None
        self._closed = False

    def write(self, row: dict[str, Any]) -> None:
        if self._rows and isinstance(row["prompt"], str) != isinstance(self._rows[0]["prompt"], str):
            raise DatasetError(
                f"{self._name}: a Parquet column holds prompts that are text or prompts that are messages, not both. "
                "Write a .jsonl file, or --set chat=true"
            )
        self._rows.append(row)
        if len(self._rows) > self._ROWS:
            # One row stays, to compare the next with.
            self._flush(self._rows[:-1])
            del self._rows[:-1]

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            if self._rows:
                self._flush(self._rows)
            if self._writer is not None:
                self._writer.close()

    def _flush(self, rows: list[dict[str, Any]]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        text = pa.string()
        message = pa.struct([("role", text), ("content", text)])
        prompt = text if isinstance(rows[0]["prompt"], str) else pa.list_(message)
        schema = pa.schema([("prompt", prompt), ("answer", text), ("grader", text), ("origin", text)])
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, schema)
        self._writer.write_table(pa.Table.from_pylist(rows, schema=schema))
