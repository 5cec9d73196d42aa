"""Files of JSON objects, one a line or one alone, as a run writes them: what is damaged is named."""

import json
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dapo.host.files import write_text

_DIGITS = 6
_BLOCK = 1 << 16


def json_number(value: float) -> float | None:
    """A float32 without the digits that it does not have; None where it is not finite, for JSON has no such numbers."""
    return round(value, _DIGITS) if math.isfinite(value) else None


def keep_json_lines(path: Path, wanted: Callable[[dict[str, Any]], bool] = lambda row: True) -> list[dict[str, Any]]:
    """Leave in a .jsonl file the objects that are wanted, and return them; a line that was cut off goes, too.

    No file holds no objects. Raises ValueError as `read_json_lines` does, OSError.
    """
    if not path.exists():
        return []
    text = _text(path)
    found = _parse(path, text)
    kept = [row for row in found if wanted(row)]
    if len(kept) < len(found) or (text and not text.endswith("\n")):
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    return kept


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a last line that was cut off by a crash is left out.

    Raises FileNotFoundError, and ValueError naming the line of any other that is not a JSON object.
    """
    return _parse(path, _text(path))


def read_json_object(path: Path) -> dict[str, Any]:
    """That of a .json file. Raises ValueError naming the file where it is none, OSError."""
    return parse_object(_text(path), str(path))


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Raises ValueError naming `where` it stands."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{where} is not a JSON object")
    return found


def parse_line(path: Path, at: int, line: bytes) -> dict[str, Any]:
    """The object of the line that begins at byte `at`. Raises ValueError naming the line where it is none, OSError."""
    try:
        return parse_object(line, "")
    except ValueError as error:
        raise ValueError(f"{path}:{line_number(path, at)}{error}") from error


def line_number(path: Path, at: int) -> int:
    """Of the line that begins at byte `at`, from 1. Raises OSError."""
    with path.open("rb") as file:
        return file.read(at).count(b"\n") + 1


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8: {error}") from error


def _parse(path: Path, text: str) -> list[dict[str, Any]]:
    lines = text.splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise ValueError(f"{path}:{number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number} is not a JSON object")
        rows.append(row)
    return rows


def lines_backwards(path: Path, before: int | None = None) -> Iterator[tuple[int, bytes]]:
    """The lines of a file from its end, or from byte `before`, to its beginning, each with where it begins and without
    its line feed. A last line without one is being written and is left out. Raises OSError."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END) if before is None else before
        rest = b""
        while end > 0:
            start = max(0, end - _BLOCK)
            file.seek(start)
            block = file.read(end - start) + rest
            first, *others = block.split(b"\n")
            end, rest = start, block
            if others:
                at = start + len(block) - len(others[-1])
                for line in reversed(others[:-1]):
                    at -= len(line) + 1
                    yield at, line
                rest = first + b"\n"
        if rest.endswith(b"\n"):
            yield 0, rest[:-1]
