"""What a terminal shows: texts that a model wrote, made harmless and short enough, and tables that fit its width."""

import math
import unicodedata
from collections.abc import Sequence
from itertools import pairwise, product
from typing import NamedTuple

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderResult
from rich.table import Table
from rich.text import Text

_MAX_LINES = 12
_GAP = 1


def visible(text: str) -> str:
    """Every character that could steer a terminal or hide from the eye (escape codes, carriage returns, changes of
    direction, zero width) becomes its escape, e.g. `\\x1b`; line ends, tabs and all kinds of spaces stay."""
    return text if text.isprintable() else "".join(map(_visible_character, text))


def _visible_character(char: str) -> str:
    if char.isprintable() or char in "\n\t" or unicodedata.category(char) == "Zs":
        return char
    return char.encode("unicode_escape").decode()


def shorten(text: str, characters: int) -> str:
    """A third from the beginning, two thirds from the end, where answers stand; by lines, then by characters."""
    lines = text.split("\n")
    if len(lines) > _MAX_LINES:
        head = _MAX_LINES // 3
        tail = _MAX_LINES - head
        left_out = len(lines) - head - tail
        text = "\n".join([*lines[:head], f"[… {left_out:,} lines …]", *lines[-tail:]])
    if len(text) > characters:
        head = characters // 3
        tail = characters - head
        text = f"{text[:head]} [… {len(text) - head - tail:,} characters …] {text[-tail:]}"
    return text


def one_line(text: str, characters: int, style: str = "") -> Text:
    """The beginning, with every white space a single space."""
    words = " ".join(text[: 4 * characters].split())
    return Text(visible(words if len(words) <= characters else words[: characters - 1] + "…"), style)


_BARS = "▁▂▃▄▅▆▇█"


def sparkline(values: Sequence[float | None], width: int) -> str:
    """A bar for each value, the lowest of them the lowest bar; of more values than `width` the means of as many parts.

    A gap where nothing was measured; values that are all the same lie in the middle. "" for no value.
    """
    parts = [values[len(values) * at // width : len(values) * (at + 1) // width] for at in range(width)]
    found = [_mean(part) for part in parts] if len(values) > width else [_mean([value]) for value in values]
    measured = [value for value in found if value is not None]
    if not measured:
        return ""
    low, high = min(measured), max(measured)
    return "".join(" " if value is None else _bar(value, low, high) for value in found)


def _bar(value: float, low: float, high: float) -> str:
    top = len(_BARS) - 1
    # Halved, so that the distance of no two finite numbers overflows.
    reach = high / 2 - low / 2
    return _BARS[round(top * ((value / 2 - low / 2) / reach)) if reach else top // 2]


def _mean(values: Sequence[float | None]) -> float | None:
    """Of those that were measured."""
    found = [value for value in values if value is not None and math.isfinite(value)]
    return math.fsum(value / len(found) for value in found) if found else None


class Column(NamedTuple):
    heading: str
    text: bool = False
    """Text may be wrapped or shortened where there is little room; a number is shown whole."""
    least: int = 8
    """Width below which text is not pressed."""
    whole: bool = False
    """Text that is shown whole, as a number is: an id that is copied or looked for."""


class WideTable:
    """A table of which no number and no id is cut, however narrow the terminal.

    Where the columns have no room beside each other they follow in further parts below, of about as many columns each;
    every part begins with the first `keys` columns, which say what a line is of.
    """

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[Text]], *, keys: int = 0) -> None:
        self._columns = columns
        self._rows = rows
        self._keys = keys

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        most = len(self._columns) - self._keys
        # Text is pressed below its least width only where there is no other way.
        for pressed, number in product((False, True), range(1, most + 1)):
            bounds = [most * at // number for at in range(number + 1)]
            parts = [self._part(*ends) for ends in pairwise(bounds)]
            if all(self._width(part, pressed) <= options.max_width for part in parts):
                break
        for at, part in enumerate(parts):
            if at and len(self._rows) > 1:
                yield ""
            yield self._table(part, pressed)

    def _part(self, first: int, end: int) -> list[int]:
        """The key columns and, of the others, those from `first` to before `end`."""
        return [*range(self._keys), *range(self._keys + first, self._keys + end)]

    def _width(self, part: Sequence[int], pressed: bool) -> int:
        return sum(self._least(at, pressed) + _GAP for at in part) - _GAP

    def _least(self, at: int, pressed: bool) -> int:
        column = self._columns[at]
        widest = _widest(column, self._rows, at)
        return min(widest, 1 if pressed else column.least) if _gives_way(column) else widest

    def _table(self, part: Sequence[int], pressed: bool) -> Table:
        table = Table(box=None, expand=True, header_style="dim", padding=(0, _GAP, 0, 0), pad_edge=False)
        for at in part:
            column = self._columns[at]
            justify: JustifyMethod = "left" if column.text else "right"
            least, no_wrap = self._least(at, pressed), not _gives_way(column)
            table.add_column(column.heading, min_width=least, justify=justify, no_wrap=no_wrap, overflow="fold")
        for row in self._rows:
            table.add_row(*(row[at] for at in part))
        return table


def _gives_way(column: Column) -> bool:
    return column.text and not column.whole


def natural_width(columns: Sequence[Column], rows: Sequence[Sequence[Text]]) -> int:
    """Cells that a table takes of which nothing is wrapped."""
    return sum(_widest(column, rows, at) + _GAP for at, column in enumerate(columns)) - _GAP


def _widest(column: Column, rows: Sequence[Sequence[Text]], at: int) -> int:
    cells = (row[at].plain for row in rows)
    return max(cell_len(line) for text in (column.heading, *cells) for line in text.split("\n"))
