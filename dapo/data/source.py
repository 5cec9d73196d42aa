"""One source of rows: its table, which fields of it hold what, and what is wrong with its gold answers."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

from dapo.data.detection import SAMPLE_ROWS, detect
from dapo.data.errors import DatasetError, Malformed, RowError
from dapo.data.locations import open_table
from dapo.data.rows import MEDIA, Row, build_row, media_column, media_refusal, prompt_hash
from dapo.spec.tree.data import SourceSpec

_MALFORMED_SHARE = 0.01
_MALFORMED_ROWS = 100
_GOLD_BATCH = 256
_GOLD_CHARACTERS = 60
GoldCheck = Callable[[Sequence[tuple[str | None, str]]], list[str]]
"""(grader that the row names, gold answer) of some rows → why no response can honestly meet each; empty where one
can."""


class Scanned(NamedTuple):
    """A usable row with the hash of its prompt, by which duplicates are found."""

    number: int
    row: Row
    hash: bytes


class Source:
    """Rows of a file, a folder or a hub dataset, numbered from 0, usable or not.

    Raises DatasetError where the data cannot be read, is empty, or does not tell which fields to take.
    """

    def __init__(self, spec: SourceSpec, name: str, row_prefix: str = "") -> None:
        """`row_prefix` goes before the ids of the rows, so that they are unique among several sources."""
        self.spec = spec
        self.name = name
        self.table = open_table(spec)
        self._prefix = row_prefix
        if not len(self.table):
            raise DatasetError(f"{spec.path} has no usable row: it is empty")
        head = self.table.head(SAMPLE_ROWS)
        sample = [raw for raw in head if isinstance(raw, dict)]
        if not sample:
            first = self._malformed(0, head[0])
            raise DatasetError(f"{spec.path} has no usable row; the first malformed one is {first}")
        self.columns = self.table.columns or list(dict.fromkeys(name for raw in sample for name in raw))
        self.fields = detect(spec.path, sample, self.table.columns, spec)
        grader = [] if self.fields.grader is None else [self.fields.grader]
        media = [name for name in self.columns if name.lower() in MEDIA]
        if media and not spec.ignore_media:
            self._refuse_media(sample)
        self.table.select([self.fields.prompt, self.fields.gold, *grader], () if spec.ignore_media else media)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def malformed_limit(self) -> int:
        limit = self.spec.malformed_limit
        return max(_MALFORMED_ROWS, int(_MALFORMED_SHARE * len(self))) if limit is None else limit

    def row(self, number: int) -> Row:
        """Raises RowError."""
        return self._build(number, self.table.read(number))

    def scan(self) -> Iterator[Scanned | Malformed]:
        """Every row in order."""
        for number, raw in enumerate(self.table.scan()):
            if isinstance(raw, RowError):
                yield self._malformed(number, raw)
                continue
            try:
                row = self._build(number, raw)
            except RowError as error:
                yield self._malformed(number, error)
            else:
                yield Scanned(number, row, prompt_hash(raw, self.fields.prompt))

    def row_id(self, number: int) -> str:
        place = self.table.place(number)
        return f"{self._prefix}{place.file}:{place.line}"

    def _refuse_media(self, sample: Sequence[dict[str, Any]]) -> None:
        """Refuse before all the images of a large file are read."""
        found = [media_column(raw, self.fields) for raw in sample]
        if found[0] is not None and None not in found:
            raise DatasetError(f"{self.spec.path} has no usable row: {media_refusal(found[0])}")

    def _build(self, number: int, raw: dict[str, Any]) -> Row:
        return build_row(raw, self.fields, self.spec, row_id=self.row_id(number), source=self.name)

    def _malformed(self, number: int, reason: object) -> Malformed:
        return Malformed(*self.table.place(number), str(reason))


def with_problems(
    items: Iterable[Scanned | Malformed], check: GoldCheck | None
) -> Iterator[tuple[Scanned | Malformed, str]]:
    """Each row with what is wrong with its gold answer; empty where nothing is, or where there is no `check`."""
    waiting = iter(items)
    while batch := list(islice(waiting, _GOLD_BATCH)):
        usable = [item.row for item in batch if isinstance(item, Scanned)] if check else []
        problems = iter(check([(row.grader, row.gold) for row in usable]) if check and usable else [])
        for item in batch:
            problem = next(problems, "") if isinstance(item, Scanned) else ""
            yield item, _named(item, problem) if isinstance(item, Scanned) and problem else ""


def _named(item: Scanned, problem: str) -> str:
    gold = item.row.gold
    shown = gold if len(gold) <= _GOLD_CHARACTERS else f"{gold[:_GOLD_CHARACTERS]}…"
    return f"{item.row.row_id}: {shown!r}: {problem}"
