"""The data frontier: in which order rows of the dataset become prompts."""

import hashlib
import random
from typing import NamedTuple


class FrontierItem(NamedTuple):
    epoch: int
    cursor: int
    """Position in the epoch's order."""
    row: int
    """Index of the row in the dataset: order(seed, epoch)[cursor]."""


class FrontierState(NamedTuple):
    """Where the next item comes from."""

    epoch: int
    cursor: int


START = FrontierState(0, 0)


class Frontier:
    """Every row exactly once an epoch, epoch after epoch.

    An epoch's order depends on (rows, seed, epoch) alone, so a frontier restored from a state yields the very items
    the first one would have. Without `shuffle` it is the order of the file.

    Raises ValueError for an empty dataset or a state outside of it.
    """

    def __init__(self, rows: int, *, seed: int, shuffle: bool, state: FrontierState = START) -> None:
        if rows < 1:
            raise ValueError(f"rows = {rows}: the dataset has no rows; check data.path and data.limit_rows")
        if state.epoch < 0 or not 0 <= state.cursor < rows:
            raise ValueError(f"{state} lies outside a dataset of {rows} rows: was the dataset changed?")
        self._rows = rows
        self._seed = seed
        self._shuffle = shuffle
        self._epoch, self._cursor = state
        self._order = self._epoch_order(self._epoch)

    def next(self) -> FrontierItem:
        item = FrontierItem(self._epoch, self._cursor, self._order[self._cursor])
        self._cursor += 1
        if self._cursor == self._rows:
            self._epoch += 1
            self._cursor = 0
            self._order = self._epoch_order(self._epoch)
        return item

    def state(self) -> FrontierState:
        return FrontierState(self._epoch, self._cursor)

    def _epoch_order(self, epoch: int) -> list[int]:
        order = list(range(self._rows))
        if not self._shuffle:
            return order
        digest = hashlib.blake2b(f"{self._seed}/{epoch}".encode(), digest_size=16).digest()
        # Only random() keeps its sequence across Python versions, so Fisher and Yates' shuffle is spelt out.
        draw = random.Random(int.from_bytes(digest, "little")).random
        for last in range(self._rows - 1, 0, -1):
            other = int(draw() * (last + 1))
            order[last], order[other] = order[other], order[last]
        return order
