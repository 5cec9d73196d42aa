"""What can be wrong with data: with one row, or with all of it."""

from typing import NamedTuple


class DatasetError(ValueError):
    """The data cannot be used; the message names the file, the reason and the cure."""


class RowError(ValueError):
    """One row is not usable; the message names the field and what it holds."""


class Malformed(NamedTuple):
    """A row that was set aside."""

    file: str
    line: int
    """Of a jsonl file the line, of other formats the row, from 1."""
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"
