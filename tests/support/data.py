"""Files of rows for the tests of dapo.data."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.paths import SHARED

DATA = SHARED / "data"


def write_lines(path: Path, rows: Iterable[Any]) -> Path:
    """Rows as JSON, strings as they stand."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="")
    return path


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_repeated(path: Path, text: str, rows: int) -> Path:
    """One row group of messages that all say `text`, which is stored once; the gold answers are 0, 1, …"""
    role, content = (
        pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array([value])) for value in ("user", text)
    )
    messages = pa.StructArray.from_arrays([role, content], ["role", "content"])
    prompt = pa.ListArray.from_arrays(pa.array(range(rows + 1), pa.int32()), messages)
    table = pa.table({"prompt": prompt, "answer": list(map(str, range(rows)))})
    # Without Arrow's own schema the columns are read as plain text, as from any other writer.
    pq.write_table(table, path, row_group_size=rows, store_schema=False)
    return path


def shared(name: str) -> str:
    """Path of a file of real data; skips the test where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is absent")
    return str(path)
