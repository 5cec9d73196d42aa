"""Files of rows that are written whole or not at all."""

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from dapo.data.errors import DatasetError
from dapo.host.files import replacing, sync


def check_output(path: Path, suffixes: Sequence[str], inputs: Collection[Path], *, force: bool) -> None:
    """Raises DatasetError where `path` ends in none of `suffixes`, is no name for a file, is one of `inputs` or is
    there already (unless `force`)."""
    if path.suffix.lower() not in suffixes:
        raise DatasetError(f"{path} must end in {' or '.join(suffixes)}")
    if not path.parent.is_dir():
        raise DatasetError(f"{path.parent} is not a folder: make it first")
    if path.is_dir():
        raise DatasetError(f"{path} is a folder: give the name of a file")
    if path.resolve() in {file.resolve() for file in inputs}:
        raise DatasetError(f"{path} is what is read: give another name")
    if path.exists() and not force:
        raise DatasetError(f"{path} is there already: give --force to replace it, or another name")


class _Writer(Protocol):
    def write(self, row: dict[str, Any]) -> None: ...
    def close(self) -> None: ...


class Output:
    """A file of rows that is being written. All methods raise OSError, e.g. for a full disk."""

    def __init__(self, scratch: Path, writer: _Writer) -> None:
        self._scratch = scratch
        self._writer = writer

    def write(self, row: dict[str, Any]) -> None:
        """In a .jsonl file, fields that are None are left out."""
        self._writer.write(row)

    def finish(self) -> None:
        """What was written is on the disk when this returns; no row may follow."""
        self._writer.close()
        sync(self._scratch)


@contextmanager
def open_output(path: Path) -> Iterator[Output]:
    """A file that appears, or replaces the one there, at the end of the context, and does not where that raises.

    .jsonl holds any rows, .parquet those of `dapo data prepare`.
    """
    with replacing(path) as scratch:
        is_text = path.suffix.lower() == ".jsonl"
        writer: _Writer = _JsonLinesWriter(scratch) if is_text else _ParquetWriter(scratch, path.name)
        try:
            yield Output(scratch, writer)
        finally:
            writer.close()


class _JsonLinesWriter:
    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8", newline="\n")

    def write(self, row: dict[str, Any]) -> None:
        filled = {name: value for name, value in row.items() if value is not None}
        self._file.write(json.dumps(filled, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._file.close()


class _ParquetWriter:
    """Row groups of _ROWS, or fewer of long rows; the prompts' type is that of the first row."""

    _ROWS = 4096
    _CHARACTERS = 64 << 20

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._rows: list[dict[str, Any]] = []
        self._size = 0
        self._writer: Any = None
        self._closed = False

    def write(self, row: dict[str, Any]) -> None:
        if self._rows and isinstance(row["prompt"], str) != isinstance(self._rows[0]["prompt"], str):
            raise DatasetError(
                f"{self._name}: a Parquet column holds prompts that are text or prompts that are messages, not both. "
                "Write a .jsonl file, or --set chat=true"
            )
        self._rows.append(row)
        self._size += _characters(row)
        if len(self._rows) > 1 and (len(self._rows) > self._ROWS or self._size > self._CHARACTERS):
            # One row stays, to compare the next with.
            self._flush(self._rows[:-1])
            del self._rows[:-1]
            self._size = _characters(row)

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


def _characters(row: dict[str, Any]) -> int:
    prompt = row["prompt"]
    texts = [prompt] if isinstance(prompt, str) else [message["content"] for message in prompt]
    return sum(map(len, [*texts, row["answer"]]))
