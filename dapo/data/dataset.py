"""The rows that prompts are made of: all checked once when opened, then read by number.

A row that cannot become a prompt is set aside with its file, line and reason; a source with too many of them is
refused. Memory holds some 60 bytes for each usable row, and for Parquet its columns; rows are read from their files.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from itertools import accumulate
from typing import Literal, NamedTuple

from dapo.algo.frontier import DataPart
from dapo.data.errors import DatasetError, Malformed, RowError
from dapo.data.rows import HASH_BYTES, Row, is_held_out
from dapo.data.source import Scanned, Source
from dapo.spec.tree.data import DataSpec, SourceSpec


class Rows(NamedTuple):
    """Chosen rows of a source."""

    source: Source
    numbers: "array[int]"
    hashes: bytes
    """HASH_BYTES a row: of its prompt."""
    golds: "array[int]"
    """Hashes of the gold answers, comparable within this process only."""

    def hash(self, index: int) -> bytes:
        return self.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES]

    def only(self, wanted: Callable[[bytes], bool]) -> "Rows":
        """The rows whose prompt's hash is wanted."""
        kept = [index for index in range(len(self.numbers)) if wanted(self.hash(index))]
        return Rows(
            self.source,
            array("q", (self.numbers[index] for index in kept)),
            b"".join(self.hash(index) for index in kept),
            array("q", (self.golds[index] for index in kept)),
        )


class Conflict(NamedTuple):
    """Two rows with the same prompt and different gold answers."""

    row_id: str
    first_row_id: str


class Duplicates(NamedTuple):
    rows: int
    """Rows whose prompt an earlier row has."""
    conflicts: list[Conflict]
    """Those with another gold answer than the first of their prompt."""


class Dataset:
    """Usable rows, numbered 0 … len − 1: source after source, each in the order of its files."""

    def __init__(self, rows: Sequence[Rows], malformed: Sequence[Malformed] = ()) -> None:
        self.malformed = list(malformed)
        self._rows = [part for part in rows if part.numbers]
        self._ends = list(accumulate(len(part.numbers) for part in self._rows))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, row: int) -> Row:
        """Raises DatasetError where the file is no longer what it was when opened."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        part, index = self._find(row)
        try:
            return part.source.row(part.numbers[index])
        except RowError as error:
            place = part.source.row_id(part.numbers[index])
            raise DatasetError(f"{place}: {error}. Was the file changed while the run reads it?") from error

    def __iter__(self) -> Iterator[Row]:
        return (self[row] for row in range(len(self)))

    @property
    def sources(self) -> list[Source]:
        """Those with rows in this dataset."""
        return [part.source for part in self._rows]

    @property
    def parts(self) -> tuple[DataPart, ...]:
        """What the frontier draws from: the number of rows of each source and its weight, in the rows' order."""
        return tuple(DataPart(len(part.numbers), part.source.spec.weight) for part in self._rows)

    def split(self, part: Literal["train", "held_out"], share: float) -> "Dataset":
        """The training or the held-out rows. Which prompts are held out, about `share` of them, depends on their text
        alone, so the two have no prompt in common."""
        return self._only(lambda prompt: is_held_out(prompt, share) == (part == "held_out"))

    def prompt_hashes(self) -> frozenset[bytes]:
        return frozenset(part.hash(index) for part in self._rows for index in range(len(part.numbers)))

    def without(self, hashes: Set[bytes]) -> "Dataset":
        """The rows whose prompt is not among `hashes`, the prompt hashes of another dataset."""
        return self._only(lambda prompt: prompt not in hashes)

    def duplicates(self) -> Duplicates:
        first: dict[bytes, tuple[int, int]] = {}
        rows = 0
        conflicts = []
        for number, (prompt, gold) in enumerate(self._keys()):
            original, its_gold = first.setdefault(prompt, (number, gold))
            rows += original != number
            if gold != its_gold:
                conflicts.append(Conflict(self.row_id(number), self.row_id(original)))
        return Duplicates(rows, conflicts)

    def deduplicated(self) -> "Dataset":
        """The first row of each prompt."""
        seen: set[bytes] = set()

        def is_new(prompt: bytes) -> bool:
            known = len(seen)
            seen.add(prompt)
            return len(seen) > known

        return self._only(is_new)

    def _only(self, wanted: Callable[[bytes], bool]) -> "Dataset":
        return Dataset([part.only(wanted) for part in self._rows], self.malformed)

    def _keys(self) -> Iterator[tuple[bytes, int]]:
        for part in self._rows:
            for index, gold in enumerate(part.golds):
                yield part.hash(index), gold

    def row_id(self, row: int) -> str:
        """Where that row stands, without reading it."""
        part, index = self._find(row)
        return part.source.row_id(part.numbers[index])

    def _find(self, row: int) -> tuple[Rows, int]:
        part = bisect_right(self._ends, row)
        return self._rows[part], row - (self._ends[part - 1] if part else 0)


class Splits(NamedTuple):
    train: Dataset
    held_out: Dataset | None
    """The rows that `data.held_out_share` keeps from training; None where that is 0."""


def open_splits(spec: DataSpec) -> Splits:
    """All sources, read once. Raises DatasetError where one cannot be used or a split has no row."""
    whole, share = _open(spec), spec.held_out_share
    if not share:
        return Splits(whole, None)
    train, held_out = whole.split("train", share), whole.split("held_out", share)
    if not len(train):
        raise DatasetError(f"data.held_out_share = {share} leaves no row to train on. Lower it")
    if not len(held_out):
        raise DatasetError(
            f"data.held_out_share = {share} holds out none of {len(whole)} rows. Raise it, or set it to 0"
        )
    return Splits(train, held_out)


def open_dataset(spec: DataSpec) -> Dataset:
    """What a run trains on, see `open_splits`."""
    return open_splits(spec).train


def open_source(source: SourceSpec, name: str) -> Dataset:
    """All usable rows of one source, e.g. of an evaluation set. Raises DatasetError."""
    return _read([Source(source, name)])


def _open(spec: DataSpec) -> Dataset:
    sources = spec.named_sources
    if not sources:
        raise DatasetError("data.path is not set, nor data.sources: set one of them")
    several = len(sources) > 1
    dataset = _read([Source(source, name, f"{name}/" if several else "") for name, source in sources.items()])
    return dataset.deduplicated() if spec.deduplicate else dataset


def _read(sources: Sequence[Source]) -> Dataset:
    parts = []
    malformed: list[Malformed] = []
    for source in sources:
        rows, bad = collect(source, source.scan(), source.malformed_limit)
        parts.append(rows)
        malformed += bad
    return Dataset(parts, malformed)


def collect(
    source: Source, scanned: Iterable[Scanned | Malformed], limit: int, listed: int | None = None
) -> tuple[Rows, list[Malformed]]:
    """The usable rows, and the malformed ones or the first `listed` of them.

    Raises DatasetError where more than `limit` are malformed, or all.
    """
    numbers, golds, hashes = array("q"), array("q"), bytearray()
    malformed: list[Malformed] = []
    bad = 0
    for item in scanned:
        if isinstance(item, Scanned):
            numbers.append(item.number)
            hashes += item.hash
            golds.append(hash(item.row.gold))
            continue
        bad += 1
        if bad <= (limit + 1 if listed is None else listed):
            malformed.append(item)
    path = source.spec.path
    if not numbers:
        raise DatasetError(f"{path} has no usable row; the first malformed one is {malformed[0]}")
    if bad > limit:
        raise DatasetError(
            f"{path}: {bad} of {len(source)} rows are malformed, more than malformed_limit = {limit}; the first is "
            f"{malformed[0]}"
        )
    return Rows(source, numbers, bytes(hashes), golds), malformed
