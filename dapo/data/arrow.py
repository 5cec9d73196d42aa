"""Raw rows in Arrow's columns: Parquet files, and datasets that the library `datasets` maps into memory."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dapo.data.errors import DatasetError, RowError
from dapo.data.rows import has_content
from dapo.data.tables import Place, RawRow, caught

_BATCH_ROWS = 64
"""Arrow cannot build nested text of 2 GiB or more in one piece (a 32-bit offset), so rows come in small batches."""


class ArrowRows(ABC):
    """Rows of pyarrow tables; a subclass says where these come from."""

    def __init__(self, rows: int, columns: Sequence[str], files: Sequence[Path], name: str) -> None:
        self.files = files
        self.columns = columns
        self._rows = rows
        self._name = name

    def __len__(self) -> int:
        return self._rows

    def place(self, row: int) -> Place:
        return Place(self._name, row + 1)

    def read(self, row: int) -> dict[str, Any]:
        try:
            values: dict[str, Any] = self._slice(row, row + 1).to_pylist()[0]
        except (ValueError, OverflowError) as error:  # Text that is not UTF-8, a date outside the calendar.
            raise RowError(f"cannot be read: {error}") from error
        return values

    def scan(self) -> Iterator[RawRow]:
        for start in range(0, self._rows, _BATCH_ROWS):
            yield from self._read_many(start, min(start + _BATCH_ROWS, self._rows))

    def head(self, rows: int) -> list[RawRow]:
        return self._read_many(0, min(rows, self._rows))

    def select(self, fields: Sequence[str], media: Sequence[str] = ()) -> None:
        known = set(self.columns)
        names = {field if field in known else field.split(".")[0] for field in fields}
        for name in sorted(names - known):
            raise DatasetError(f"{self._name} has no column {name!r} (it has {', '.join(self.columns)})")
        self._keep(sorted(names), sorted(known.intersection(media) - names))

    def _read_many(self, start: int, stop: int) -> list[RawRow]:
        try:
            return list(self._slice(start, stop).to_pylist())
        except (ValueError, OverflowError):
            # Arrow refuses a whole batch for one bad value.
            return [caught(self.read, row) for row in range(start, stop)]

    @abstractmethod
    def _slice(self, start: int, stop: int) -> Any:
        """Arrow's rows [start, stop)."""

    @abstractmethod
    def _keep(self, columns: Sequence[str], media: Sequence[str]) -> None:
        """From now on only these columns are read, and of `media` at least whether they hold anything."""


class ParquetRows(ArrowRows):
    """Raises DatasetError where the file is no Parquet file, or a damaged one."""

    def __init__(self, path: Path, name: str, limit: int | None) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._path = path
        self._damage = (pa.ArrowException, OSError)
        try:
            self._file = pq.ParquetFile(path)
        except self._damage as error:
            raise self._unreadable(error) from error
        rows = self._file.metadata.num_rows
        super().__init__(rows if limit is None else min(rows, limit), self._file.schema_arrow.names, [path], name)
        self._table: Any = None

    def head(self, rows: int) -> list[RawRow]:
        rows = min(rows, len(self))
        self._table = self._load(rows, self.columns)
        return super().head(rows)

    def _slice(self, start: int, stop: int) -> Any:
        return self._table.slice(start, stop - start)

    def _keep(self, columns: Sequence[str], media: Sequence[str]) -> None:
        self._table = self._load(len(self), columns, media)

    def _load(self, rows: int, columns: Sequence[str], media: Sequence[str] = ()) -> Any:
        """A table of the first rows; of media only whether there are any. Raises DatasetError."""
        import pyarrow as pa

        batches: list[Any] = []
        try:
            for batch in self._file.iter_batches(_BATCH_ROWS, columns=[*columns, *media]):
                if rows <= 0:
                    break
                part = pa.Table.from_batches([batch]).select([*columns, *media]).slice(0, rows)
                for name in media:
                    part = part.set_column(
                        part.column_names.index(name), name, [list(map(_holds_something, part[name]))]
                    )
                batches.append(part)
                rows -= batch.num_rows
        except self._damage as error:
            raise self._unreadable(error) from error
        return pa.concat_tables(batches) if batches else self._file.schema_arrow.empty_table()

    def _unreadable(self, error: Exception) -> DatasetError:
        return DatasetError(f"{self._path} is not a readable Parquet file: {error}")


def _holds_something(scalar: Any) -> bool:
    try:
        return has_content(scalar.as_py())
    except ValueError:  # A path that is not UTF-8, perhaps.
        return True


class LibraryRows(ArrowRows):
    """Rows of a `datasets.Dataset`."""

    def __init__(self, dataset: Any, name: str, limit: int | None) -> None:
        rows = len(dataset) if limit is None else min(len(dataset), limit)
        files = [Path(entry["filename"]) for entry in dataset.cache_files]
        super().__init__(rows, dataset.column_names, files, name)
        self._dataset = dataset.with_format("arrow")

    def _slice(self, start: int, stop: int) -> Any:
        return self._dataset[start:stop]

    def _keep(self, columns: Sequence[str], media: Sequence[str]) -> None:
        self._dataset = self._dataset.select_columns([*columns, *media])
