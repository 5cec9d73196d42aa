"""What no single field of `data` can tell, and the form of paths.

Loading a spec does not look for the files; `missing_inputs` does.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from dapo.spec.paths import DATA_SUFFIXES, is_hub_dataset
from dapo.spec.problem import Problem
from dapo.spec.tree.data import RowsSpec
from dapo.spec.tree.run import RunTree
from dapo.spec.wording import shown

# Formats that people have and nothing here reads; any other suffix may be part of a folder's name.
_OTHER_FORMATS = frozenset(
    {".arrow", ".csv", ".gz", ".json", ".ndjson", ".npz", ".pkl", ".tsv", ".txt", ".zip", ".zst"}
)


def data(spec: RunTree) -> Iterator[Problem]:
    if spec.data.path is None and not spec.data.sources:
        yield Problem("data.path", None, "is required, or data.sources. Give one of them")
    if spec.data.path is not None and spec.data.sources:
        yield Problem(
            "data.path", spec.data.path, "stands beside data.sources. Leave it out, or make it one of data.sources"
        )
    for field, rows in data_fields(spec).items():
        yield from rows_problems(field, rows)


def data_fields(spec: RunTree) -> dict[str, RowsSpec]:
    """What has a path of rows, by its place in the spec."""
    single: dict[str, RowsSpec] = {} if spec.data.path is None else {"data": spec.data}
    sources = {f"data.sources.{name}": source for name, source in spec.data.sources.items()}
    return single | sources | {f"evaluation.sets.{name}": one for name, one in spec.evaluation.sets.items()}


def rows_problems(field: str, rows: RowsSpec) -> Iterator[Problem]:
    """Problems of the source that stands at `field`."""
    path = rows.path or ""
    if "\0" in path:
        yield Problem(f"{field}.path", shown(path.replace("\0", "\\0")), "holds a NUL character. Take it out")
    elif Path(path).suffix.lower() in _OTHER_FORMATS:
        yield Problem(
            f"{field}.path",
            path,
            f"must be a {' or '.join(DATA_SUFFIXES)} file, a folder or a hub name. Convert the data to one of them",
        )
    if "{prompt}" not in rows.prompt_template:
        yield Problem(
            f"{field}.prompt_template",
            shown(rows.prompt_template),
            "holds no `{prompt}`, so every prompt would be the same. Write `{prompt}` where the row's prompt belongs",
        )


def missing_rows(field: str, rows: RowsSpec) -> Iterator[Problem]:
    """Whether the path of the source at `field` is there, as far as this machine can tell without a hub."""
    path = rows.path or ""
    if is_hub_dataset(path):
        if find_spec("datasets") is None:
            yield Problem(
                f"{field}.path",
                path,
                "is a hub name, which needs the library datasets: run pip install '.[datasets]'. "
                "A folder here begins with ./ or /",
            )
    elif not Path(path).exists():
        yield Problem(
            f"{field}.path",
            path,
            "is not a file here, and no folder. Give the path of a .jsonl or .parquet file, or of a folder of them",
        )
