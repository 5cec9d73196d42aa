"""Rows of a jsonl file with responses and gold answers, a batch at a time; malformed ones are set aside."""

from typing import Any, BinaryIO, NamedTuple

from dapo.contracts.prompts import begun_response, prompt_text
from dapo.data.errors import Malformed, RowError
from dapo.data.rows import decoded, encodable, find, gold_text, kind, read_message
from dapo.data.tables import MAX_LINE_BYTES, Line, check_length, parse_object, read_lines
from dapo.v1 import messages_pb2 as pb
from services.verifier.request import GradingRequest

_BATCH_ROWS = 32
_SHOWN_MALFORMED = 5


class TooManyMalformed(ValueError):
    """More rows are malformed than may be set aside."""


class ResponseFields(NamedTuple):
    """Names of the fields of a row."""

    response: str
    gold: str
    correct: str
    prompt: str


class ResponseRow(NamedTuple):
    """A response to be graded, of one line."""

    line: int
    end: int
    """Position in the file after the row, in bytes."""
    request: GradingRequest
    expected: bool | None
    """The row's own label, if it has one: whether the response is correct."""


class RowBatch(NamedTuple):
    rows: list[ResponseRow]
    malformed: list[Malformed]


class RowReader:
    """Reads rows in batches. Keeps none in memory, and of a line at most MAX_LINE_BYTES."""

    def __init__(self, file: BinaryIO, name: str, grader: str, fields: ResponseFields, malformed_limit: int) -> None:
        self._lines = enumerate(read_lines(file), 1)
        self._name = name
        self._grader = grader
        self._fields = fields
        self._limit = malformed_limit
        self._position = 0
        self._malformed = 0
        self._first: list[Malformed] = []

    def take(self) -> RowBatch | None:
        """The next rows; None at the end. Raises TooManyMalformed, and OSError with the file's name."""
        batch = RowBatch([], [])
        lines = self._next_lines()
        for number, line in lines:
            self._position += line.length
            if line.empty:
                continue
            try:
                batch.rows.append(self._row(number, line))
            except RowError as error:
                batch.malformed.append(Malformed(self._name, number, str(error)))
        self._count(batch.malformed)
        return batch if lines else None

    def _next_lines(self) -> list[tuple[int, Line]]:
        lines: list[tuple[int, Line]] = []
        size = 0
        try:
            while len(lines) < _BATCH_ROWS and size < MAX_LINE_BYTES and (item := next(self._lines, None)) is not None:
                lines.append(item)
                size += len(item[1].start)
        except OSError as error:
            raise OSError(error.errno, error.strerror, self._name) from error
        return lines

    def _count(self, malformed: list[Malformed]) -> None:
        self._malformed += len(malformed)
        self._first += malformed[: _SHOWN_MALFORMED - len(self._first)]
        if self._malformed > self._limit:
            raise TooManyMalformed(
                "\n".join(
                    [f"more rows are malformed than --malformed-limit {self._limit} allows", *map(str, self._first)]
                )
            )

    def _row(self, number: int, line: Line) -> ResponseRow:
        check_length(line.length)
        raw, fields = parse_object(line.start), self._fields
        response = find(raw, fields.response)
        if not isinstance(response, str):
            raise RowError(f"field {fields.response!r} must be a string, not {kind(response)}")
        encodable(response, fields.response)
        gold = gold_text(find(raw, fields.gold), fields.gold)
        prompt = _prompt(raw, fields.prompt)
        request = GradingRequest(self._grader, response, gold, prompt_text(prompt), begun_response(prompt, ""))
        return ResponseRow(number, self._position, request, _expected(raw, fields.correct))


def _optional(raw: dict[str, Any], field: str) -> Any:
    try:
        return find(raw, field)
    except RowError:
        return None


def _prompt(raw: dict[str, Any], field: str) -> pb.Prompt:
    """As in training; empty if the row has none."""
    match value := decoded(_optional(raw, field)):
        case None:
            return pb.Prompt()
        case str():
            return pb.Prompt(text=encodable(value, field))
        case list():
            return pb.Prompt(messages=[read_message(item, field) for item in value])
    raise RowError(f"field {field!r} must be a string or a list of messages, not {kind(value)}")


def _expected(raw: dict[str, Any], field: str) -> bool | None:
    value = _optional(raw, field)
    if value is None or isinstance(value, bool):
        return value
    if value in (0, 1):
        return bool(value)
    raise RowError(f"field {field!r} must be true or false, not {value!r}")
