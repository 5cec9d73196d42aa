"""The rows that prompts are made of: a .jsonl or .parquet file, checked once when opened, read by row number after.

A row that cannot become a prompt is set aside with its file, line number and reason; beyond the limit of such rows the
file is refused. Rows stay in the file (jsonl) or in Arrow's columns (parquet): memory holds eight bytes a row.
"""

import hashlib
import json
import math
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

from dapo.spec.data import DataSpec
from dapo.v1 import messages_pb2 as pb

MALFORMED_SHARE = 0.01
MALFORMED_ROWS = 100
_HASH_CHUNK = 1 << 20


class DatasetError(ValueError):
    """The data file cannot be used; the message names the file, the reason and the cure."""


class Malformed(NamedTuple):
    line: int
    reason: str


class Row(NamedTuple):
    row_id: str
    prompt: pb.Prompt
    gold: str


class RowError(ValueError):
    """One row is not usable."""


class _Table(Protocol):
    """Raw rows by number; line(i) is where a person finds row i in the file."""

    def __len__(self) -> int: ...
    def line(self, row: int) -> int: ...
    def read(self, row: int) -> dict[str, Any]: ...


class _JsonLines:
    def __init__(self, path: Path, limit: int | None) -> None:
        self._file = path.open("rb")
        self._offsets = array("q")
        self._lines = array("q")
        offset = 0
        for number, line in enumerate(self._file, start=1):
            if limit is not None and len(self._offsets) >= limit:
                break
            if line.strip():
                self._offsets.append(offset)
                self._lines.append(number)
            offset += len(line)

    def __len__(self) -> int:
        return len(self._offsets)

    def line(self, row: int) -> int:
        return self._lines[row]

    def read(self, row: int) -> dict[str, Any]:
        self._file.seek(self._offsets[row])
        try:
            value = json.loads(self._file.readline().decode("utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise RowError(f"not a JSON object: {error}") from error
        if not isinstance(value, dict):
            raise RowError(f"not a JSON object but {_kind(value)}")
        return value


class _Parquet:
    def __init__(self, path: Path, columns: set[str], limit: int | None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(path)
            missing = columns - set(file.schema_arrow.names)
            if missing:
                known = ", ".join(file.schema_arrow.names)
                raise DatasetError(f"{path} has no column {sorted(missing)[0]!r} (it has {known}): "
                                   "set data.prompt_field and data.gold_field")  # fmt: skip
            table = file.read(columns=sorted(columns))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DatasetError(f"{path} is not a readable Parquet file: {error}") from error
        self._table = table if limit is None else table.slice(0, limit)

    def __len__(self) -> int:
        return cast(int, self._table.num_rows)

    def line(self, row: int) -> int:
        return row + 1

    def read(self, row: int) -> dict[str, Any]:
        return cast(dict[str, Any], self._table.slice(row, 1).to_pylist()[0])


class Dataset:
    """Usable rows, numbered 0 … len − 1 in file order.

    Raises DatasetError when the file is missing, of another format, without usable rows, or has more than
    max(1 %, 100) malformed rows (a file of malformed rows only is always refused).
    """

    def __init__(self, spec: DataSpec) -> None:
        self.path = Path(spec.path)
        self.malformed: list[Malformed] = []
        self._spec = spec
        self._table = _open(self.path, spec)
        self._usable = array("q", self._check())
        if not len(self):
            raise DatasetError(f"data.path {self.path} has no usable row{self._first_malformed()}")
        if len(self.malformed) > max(MALFORMED_ROWS, MALFORMED_SHARE * len(self._table)):
            raise DatasetError(
                f"data.path {self.path}: {len(self.malformed)} of {len(self._table)} rows are malformed, more than "
                f"1 % and more than {MALFORMED_ROWS}{self._first_malformed()}"
            )

    def __len__(self) -> int:
        return len(self._usable)

    def __getitem__(self, row: int) -> Row:
        number = self._usable[row]
        return build_row(self._table.read(number), self._spec, f"{self.path.name}:{self._table.line(number)}")

    def _check(self) -> Iterator[int]:
        for number in range(len(self._table)):
            try:
                build_row(self._table.read(number), self._spec, "")
            except RowError as error:
                self.malformed.append(Malformed(self._table.line(number), str(error)))
            else:
                yield number

    def _first_malformed(self) -> str:
        if not self.malformed:
            return ": the file is empty"
        first = self.malformed[0]
        return f"; the first malformed one is {self.path}:{first.line}: {first.reason}"


def _open(path: Path, spec: DataSpec) -> _Table:
    if not path.is_file():
        raise DatasetError(f"data.path {path} is not a file: give the path of a .jsonl or .parquet file")
    if path.suffix == ".jsonl":
        return _JsonLines(path, spec.limit_rows)
    if path.suffix == ".parquet":
        return _Parquet(path, {field.split(".")[0] for field in (spec.prompt_field, spec.gold_field)}, spec.limit_rows)
    raise DatasetError(f"data.path {path} ends in {path.suffix or 'nothing'!r}: only .jsonl and .parquet are read")


def build_row(raw: dict[str, Any], spec: DataSpec, row_id: str) -> Row:
    """The prompt and gold answer of one raw row. Raises RowError naming the field and what it holds."""
    return Row(row_id, _prompt(_field(raw, spec.prompt_field), spec), _gold(_field(raw, spec.gold_field), spec))


def _field(raw: dict[str, Any], dotted: str) -> Any:
    """The value under a dotted name; a key that itself holds the dots wins."""
    if dotted in raw:
        return raw[dotted]
    value: Any = raw
    for part in dotted.split("."):
        if not isinstance(value, dict) or part not in value:
            raise RowError(f"no field {dotted!r}")
        value = value[part]
    return value


def _prompt(value: Any, spec: DataSpec) -> pb.Prompt:
    if isinstance(value, str) and value:
        text = spec.prompt_template.replace("{prompt}", value)
        return pb.Prompt(messages=[pb.ChatMessage(role="user", content=text)]) if spec.chat else pb.Prompt(text=text)
    if isinstance(value, list) and value:
        messages = [_message(item, spec) for item in value]
        messages[-1].content = spec.prompt_template.replace("{prompt}", messages[-1].content)
        return pb.Prompt(messages=messages)
    raise RowError(f"field {spec.prompt_field!r} must be a string or a list of messages, not {_kind(value)}")


def _message(item: Any, spec: DataSpec) -> pb.ChatMessage:
    role, content = (item.get("role"), item.get("content")) if isinstance(item, dict) else (None, None)
    if not isinstance(role, str) or not isinstance(content, str):
        raise RowError(f"field {spec.prompt_field!r}: each message must be {{role, content}} of strings")
    return pb.ChatMessage(role=role, content=content)


def _gold(value: Any, spec: DataSpec) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise RowError(f"field {spec.gold_field!r} must be a string or a number, not {_kind(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise RowError(f"field {spec.gold_field!r} is {value}")
    text = value if isinstance(value, str) else repr(value)
    if not text.strip():
        raise RowError(f"field {spec.gold_field!r} is empty")
    return text


def _kind(value: Any) -> str:
    if value is None or value in ("", []):
        return "null" if value is None else "empty"
    return type(value).__name__


def file_sha256(path: Path, limit_bytes: int | None = None) -> str:
    """Hex SHA-256 of the file's first `limit_bytes` (of all of it by default), read in pieces."""
    digest = hashlib.sha256()
    left = limit_bytes if limit_bytes is not None else path.stat().st_size
    with path.open("rb") as file:
        while left > 0 and (chunk := file.read(min(_HASH_CHUNK, left))):
            digest.update(chunk)
            left -= len(chunk)
    return digest.hexdigest()
