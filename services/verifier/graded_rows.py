"""Rows of a jsonl file with responses and gold answers, a batch at a time; malformed ones are set aside."""

import json
from collections.abc import Iterable
from itertools import islice
from typing import Any, NamedTuple

from dapo.data.errors import Malformed, RowError
from dapo.data.rows import find, kind
from dapo.data.tables import parse_object
from services.verifier.pool import GradingRequest

_BATCH = 32
_SHOWN = 5


class TooManyMalformed(ValueError):
    """More rows are malformed than may be set aside."""


class Fields(NamedTuple):
    response: str
    gold: str
    correct: str
    prompt: str


class Row(NamedTuple):
    line: int
    end: int
    """Bytes of the file up to the end of the row."""
    request: GradingRequest
    expected: bool | None
    """What the row says of itself."""


class Batch(NamedTuple):
    rows: list[Row]
    malformed: list[Malformed]


class RowReader:
    """Holds no row that it has given out."""

    def __init__(self, lines: Iterable[bytes], name: str, grader: str, fields: Fields, malformed_limit: int) -> None:
        self._lines = enumerate(lines, 1)
        self._name = name
        self._grader = grader
        self._fields = fields
        self._limit = malformed_limit
        self._position = 0
        self._malformed = 0
        self._first: list[Malformed] = []

    def take(self) -> Batch | None:
        """The next rows; None at the end. Raises TooManyMalformed, OSError."""
        batch = Batch([], [])
        lines = list(islice(self._lines, _BATCH))
        for number, line in lines:
            self._position += len(line)
            if not line.strip():
                continue
            try:
                batch.rows.append(self._row(number, line))
            except RowError as error:
                batch.malformed.append(Malformed(self._name, number, str(error)))
        self._count(batch.malformed)
        return batch if lines else None

    def _count(self, malformed: list[Malformed]) -> None:
        self._malformed += len(malformed)
        self._first += malformed[: _SHOWN - len(self._first)]
        if self._malformed > self._limit:
            raise TooManyMalformed(
                "\n".join(
                    [f"more rows are malformed than --malformed-limit {self._limit} allows", *map(str, self._first)]
                )
            )

    def _row(self, number: int, line: bytes) -> Row:
        raw, fields = parse_object(line), self._fields
        response = find(raw, fields.response)
        if not isinstance(response, str):
            raise RowError(f"field {fields.response!r} must be a string, not {kind(response)}")
        gold = find(raw, fields.gold)
        if gold is None:
            raise RowError(f"field {fields.gold!r} must be a gold answer, not null")
        prompt = _optional(raw, fields.prompt)
        request = GradingRequest(self._grader, response, _text(gold), "" if prompt is None else _text(prompt))
        return Row(number, self._position, request, _expected(raw, fields.correct))


def _optional(raw: dict[str, Any], field: str) -> Any:
    try:
        return find(raw, field)
    except RowError:
        return None


def _text(value: Any) -> str:
    """Numbers, lists and objects as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _expected(raw: dict[str, Any], field: str) -> bool | None:
    value = _optional(raw, field)
    if value is None or isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    raise RowError(f"field {field!r} must be true or false, not {value!r}")
