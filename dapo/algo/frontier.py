"""The data frontier: in which order rows of the dataset become prompts."""

import hashlib
import math
import random
from collections.abc import Sequence
from typing import NamedTuple


class DataPart(NamedTuple):
    """Rows that follow each other in the dataset: those of one source."""

    rows: int
    weight: float = 1.0
    """How often an epoch holds each row, on average."""

    @property
    def share(self) -> int:
        """c: items of the part in each epoch, rows · weight to the nearest whole number, at least 1."""
        return max(1, math.floor(self.rows * self.weight + 0.5))


class FrontierItem(NamedTuple):
    epoch: int
    cursor: int
    """Position in the epoch's order."""
    row: int
    """Index of the row in the dataset: order(parts, seed, epoch)[cursor]."""


class FrontierState(NamedTuple):
    """Where the next item comes from."""

    epoch: int
    cursor: int


_START = FrontierState(0, 0)


class Frontier:
    """Epoch after epoch of the same length, each with exactly `share` items of every part.

    Of a part with n rows and c items an epoch, each row occurs ⌊c/n⌋ or ⌈c/n⌉ times in an epoch, and ⌊kc/n⌋ or ⌈kc/n⌉
    times in the first k: with weight 1 every row once an epoch. The c mod n rows that occur once more than the others
    are a window that goes round and round the part, in an order drawn once.

    An epoch's order depends on (parts, seed, epoch) alone, so a frontier restored from a state yields the very items
    the first one would have. Without `shuffle` it is the order of the dataset.

    Raises ValueError for an empty dataset or a state outside of it.
    """

    def __init__(self, parts: Sequence[DataPart], *, seed: int, shuffle: bool, state: FrontierState = _START) -> None:
        if not parts or any(part.rows < 1 for part in parts):
            raise ValueError(f"{list(parts)}: the dataset has no rows; check data.path and data.limit_rows")
        self._items = sum(part.share for part in parts)
        if state.epoch < 0 or not 0 <= state.cursor < self._items:
            raise ValueError(f"{state} lies outside an epoch of {self._items} prompts: was the dataset changed?")
        self._parts = tuple(parts)
        self._seed = seed
        self._shuffle = shuffle
        self._epoch, self._cursor = state
        self._order = self._epoch_order(self._epoch)
        self._looked_up: dict[int, list[int]] = {}

    def __len__(self) -> int:
        """Items of an epoch."""
        return self._items

    def next(self) -> FrontierItem:
        item = FrontierItem(self._epoch, self._cursor, self._order[self._cursor])
        self._cursor += 1
        if self._cursor == self._items:
            self._epoch += 1
            self._cursor = 0
            self._order = self._epoch_order(self._epoch)
        return item

    def item(self, epoch: int, cursor: int) -> FrontierItem:
        """The one at that place, wherever this frontier stands. Raises ValueError for a place outside the data."""
        if epoch < 0 or not 0 <= cursor < self._items:
            raise ValueError(f"place {cursor} lies outside an epoch of {self._items} prompts: was the dataset changed?")
        if epoch not in self._looked_up:
            self._looked_up = {epoch: self._epoch_order(epoch)}
        return FrontierItem(epoch, cursor, self._looked_up[epoch][cursor])

    def state(self) -> FrontierState:
        return FrontierState(self._epoch, self._cursor)

    def behind(self, epoch: int, cursor: int) -> FrontierState:
        """Where a frontier goes on whose last item was that one."""
        return FrontierState(epoch, cursor + 1) if cursor + 1 < self._items else FrontierState(epoch + 1, 0)

    def _epoch_order(self, epoch: int) -> list[int]:
        order: list[int] = []
        first = 0
        for index, part in enumerate(self._parts):
            order += [first + row for row in self._part_rows(index, part, epoch)]
            first += part.rows
        if self._shuffle:
            _shuffle(order, f"{self._seed}/{epoch}")
        return order

    def _part_rows(self, index: int, part: DataPart, epoch: int) -> list[int]:
        whole, more = divmod(part.share, part.rows)
        rows = list(range(part.rows)) * whole
        if more:
            ring = list(range(part.rows))
            if self._shuffle:
                _shuffle(ring, f"{self._seed}/part/{index}")
            start = epoch * more
            rows += sorted(ring[(start + offset) % part.rows] for offset in range(more))
        return rows


def _shuffle(order: list[int], key: str) -> None:
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    # Only random() keeps its sequence across Python versions, so Fisher and Yates' shuffle is spelt out.
    draw = random.Random(int.from_bytes(digest, "little")).random
    for last in range(len(order) - 1, 0, -1):
        other = int(draw() * (last + 1))
        order[last], order[other] = order[other], order[last]
