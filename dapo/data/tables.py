"""Raw rows by number. They are read from the file when asked for: memory holds 24 bytes for each."""

import json
import os
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

from dapo.data.errors import RowError
from dapo.data.rows import kind

MAX_LINE_BYTES = 8 << 20
"""A longer line of a jsonl file is a malformed row: it is some two million tokens."""


class Place(NamedTuple):
    """Where a person finds a row: `line` is the line of a jsonl file, else the row's number, both from 1."""

    file: str
    line: int


RawRow = dict[str, Any] | RowError


class Table(Protocol):
    @property
    def files(self) -> Sequence[Path]:
        """What the rows were read from."""

    @property
    def columns(self) -> Sequence[str] | None:
        """Names of the top level; None where each row may have its own."""

    def __len__(self) -> int: ...
    def place(self, row: int) -> Place: ...
    def read(self, row: int) -> dict[str, Any]:
        """Raises RowError."""

    def scan(self) -> Iterator[RawRow]:
        """All rows in order, a RowError in the place of one that cannot be read."""

    def head(self, rows: int) -> list[RawRow]:
        """The first rows, with all columns."""

    def select(self, fields: Sequence[str], media: Sequence[str] = ()) -> None:
        """Only these (dotted) fields are read from now on, and of the columns `media` at least whether they hold
        anything. Raises DatasetError for a column that is not there."""


class JsonLines:
    """One JSON object a line, UTF-8 with or without a byte order mark; empty lines are passed over."""

    columns = None

    def __init__(self, path: Path, name: str, limit: int | None) -> None:
        self.files = [path]
        self._name = name
        self._offsets, self._lengths, self._lines = array("q"), array("q"), array("q")
        self._file = path.open("rb")
        offset = 0
        for number, line in enumerate(read_lines(self._file), start=1):
            if limit is not None and len(self._offsets) >= limit:
                break
            if not line.empty:
                self._offsets.append(offset)
                self._lengths.append(line.length)
                self._lines.append(number)
            offset += line.length

    def __len__(self) -> int:
        return len(self._offsets)

    def place(self, row: int) -> Place:
        return Place(self._name, self._lines[row])

    def read(self, row: int) -> dict[str, Any]:
        length = self._lengths[row]
        check_length(length)
        return parse_object(os.pread(self._file.fileno(), length, self._offsets[row]))

    def scan(self) -> Iterator[RawRow]:
        return (caught(self.read, row) for row in range(len(self)))

    def head(self, rows: int) -> list[RawRow]:
        return [caught(self.read, row) for row in range(min(rows, len(self)))]

    def select(self, fields: Sequence[str], media: Sequence[str] = ()) -> None:
        """Changes nothing: a line is always parsed whole."""


class Chain:
    """Several tables, one after the other."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = tables
        self._ends = list(accumulate(map(len, tables)))
        self.files = [file for table in tables for file in table.files]
        known = [table.columns for table in tables]
        columns = [name for names in known if names is not None for name in names]
        self.columns = None if None in known else list(dict.fromkeys(columns))

    def __len__(self) -> int:
        return self._ends[-1]

    def place(self, row: int) -> Place:
        table, inner = self._find(row)
        return table.place(inner)

    def read(self, row: int) -> dict[str, Any]:
        table, inner = self._find(row)
        return table.read(inner)

    def scan(self) -> Iterator[RawRow]:
        for table in self._tables:
            yield from table.scan()

    def head(self, rows: int) -> list[RawRow]:
        found: list[RawRow] = []
        for table in self._tables:
            found += table.head(rows - len(found))
        return found

    def select(self, fields: Sequence[str], media: Sequence[str] = ()) -> None:
        for table in self._tables:
            table.select(fields, media)

    def _find(self, row: int) -> tuple[Table, int]:
        index = bisect_right(self._ends, row)
        return self._tables[index], row - (self._ends[index - 1] if index else 0)


class Line(NamedTuple):
    start: bytes
    """All of the line, or the first MAX_LINE_BYTES of a longer one."""
    length: int
    """Bytes, with the line's end."""
    empty: bool


def read_lines(file: BinaryIO) -> Iterator[Line]:
    """The lines of a file, with no more than MAX_LINE_BYTES of each in memory. Raises OSError."""
    while start := file.readline(MAX_LINE_BYTES):
        length, empty, piece = len(start), not start.strip(b" \t\r\n\xef\xbb\xbf"), start
        while not piece.endswith(b"\n") and (piece := file.readline(MAX_LINE_BYTES)):
            length += len(piece)
            empty = empty and not piece.strip()
        yield Line(start, length, empty)


def check_length(length: int) -> None:
    """Raises RowError for a line of more than MAX_LINE_BYTES."""
    if length > MAX_LINE_BYTES:
        raise RowError(f"a line of {length / 2**20:.1f} MiB, more than {MAX_LINE_BYTES >> 20}")


def parse_object(line: bytes) -> dict[str, Any]:
    """A line of JSON as an object. Raises RowError, also for keys written twice."""
    try:
        value = json.loads(line.decode("utf-8-sig"), object_pairs_hook=_unique)
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8 text (byte {error.start} of the line is {line[error.start]:#04x})") from error
    except RecursionError as error:
        raise RowError("not a JSON object: nested too deeply") from error
    except RowError:
        raise
    except ValueError as error:  # Bad syntax, or an integer of thousands of digits.
        raise RowError(f"not a JSON object: {error}") from error
    if not isinstance(value, dict):
        raise RowError(f"not a JSON object but {kind(value)}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise RowError(f"the key {twice!r} is written twice")
    return found


def caught(read: Callable[[int], dict[str, Any]], row: int) -> RawRow:
    """The row, or the RowError that reading it raised."""
    try:
        return read(row)
    except RowError as error:
        return error
