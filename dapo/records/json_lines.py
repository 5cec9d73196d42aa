"""Files of one JSON object a line, as a run writes them."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dapo.host.files import write_text

_DIGITS = 6


def json_number(value: float) -> float | None:
    """A float32 without the digits that it does not have; None where it is not finite, for JSON has no such numbers."""
    return round(value, _DIGITS) if math.isfinite(value) else None


def keep_json_lines(path: Path, wanted: Callable[[dict[str, Any]], bool] = lambda row: True) -> list[dict[str, Any]]:
    """Leave in a .jsonl file the objects that are wanted, and return them; a line that was cut off goes, too.

    No file holds no objects. Raises ValueError as `read_json_lines` does, OSError.
    """
    if not path.exists():
        return []
    found = read_json_lines(path)
    kept = [row for row in found if wanted(row)]
    whole = path.read_bytes().endswith(b"\n") or not found
    if len(kept) < len(found) or not whole:
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    return kept


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; a last line that was cut off by a crash is left out.

    Raises FileNotFoundError, and ValueError naming the line of any other that is not a JSON object.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
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
