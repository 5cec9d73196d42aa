"""From the path in a spec to a table of raw rows: a file, a folder, or a name on the hub."""

import re
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from dapo.data.arrow import LibraryRows, ParquetRows
from dapo.data.errors import DatasetError
from dapo.data.tables import Chain, JsonLines, Table
from dapo.spec.paths import DATA_SUFFIXES, is_hub_dataset
from dapo.spec.tree.data import SourceSpec

_SPLIT_WORDS = {
    "train": {"train", "training"},
    "test": {"test", "testing", "eval", "evaluation"},
    "validation": {"validation", "valid", "val", "dev"},
}
HELD_OUT_SPLIT = "held-out"
"""`train.held-out.jsonl` is of this split, and of no other."""


def open_table(spec: SourceSpec) -> Table:
    """Raises DatasetError where there is nothing to read, or of another format."""
    path = Path(spec.path)
    try:
        if is_hub_dataset(spec.path):
            return _from_hub(spec)
        if path.is_dir():
            return _folder(path / spec.subset if spec.subset else path, spec)
        return _file(path, path.name, spec.limit_rows)
    except OSError as error:
        raise DatasetError(f"{spec.path} cannot be read: {error.strerror or error}") from error


def _file(path: Path, name: str, limit: int | None) -> Table:
    if not path.exists():
        if path.is_symlink():
            raise DatasetError(f"{path} is a broken link: {path.readlink()} is not there")
        raise DatasetError(f"{path} is not a file: give the path of a .jsonl or .parquet file, or of a folder of them")
    if not path.is_file():
        raise DatasetError(f"{path} is neither a file nor a folder")
    match path.suffix.lower():
        case ".jsonl":
            return JsonLines(path, name, limit)
        case ".parquet":
            return ParquetRows(path, name, limit)
    raise DatasetError(f"{path} ends in {path.suffix or 'nothing'!r}: only {' and '.join(DATA_SUFFIXES)} are read")


def _folder(folder: Path, spec: SourceSpec) -> Table:
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder: mend subset, or leave it out")
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return _saved(folder, spec)
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in DATA_SUFFIXES]
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
    if not files:
        raise DatasetError(
            f"{folder} holds neither .jsonl nor .parquet files, and nothing that save_to_disk of the library datasets "
            "wrote"
        )
    names = [path.relative_to(folder).as_posix() for path in files]
    chosen = split_files(names, spec.split)
    if not chosen:
        splits = ", ".join(split for split in (*_SPLIT_WORDS, HELD_OUT_SPLIT) if split_files(names, split))
        raise DatasetError(
            f"{folder} has no files of the split {spec.split!r}; it has {splits} ({_few(names)}): set split"
        )
    places = sorted({name.rpartition("/")[0] or "." for name in chosen})
    if len(places) > 1:
        raise DatasetError(f"{folder} holds files of the split {spec.split!r} in {_few(places)}: set subset to one")
    if len({Path(name).suffix.lower() for name in chosen}) > 1:
        raise DatasetError(f"{folder} holds .jsonl and .parquet files side by side ({_few(chosen)}): give one of them")
    tables: list[Table] = []
    left = spec.limit_rows
    for name in chosen:
        tables.append(_file(folder / name, name, left))
        if left is not None and (left := left - len(tables[-1])) <= 0:
            break
    return Chain(tables)


def split_files(names: Sequence[str], split: str) -> list[str]:
    """Which of a folder's files hold a split: by its name (`train.jsonl`, `train-00000-of-00002.parquet`, `train/…`),
    else by a word of the name (`gsm8k_train.jsonl`). Where no file names a split, all are of `train`."""
    ours = [name for name in names if (HELD_OUT_SPLIT in Path(name).stem) == (split == HELD_OUT_SPLIT)]
    if split == HELD_OUT_SPLIT:
        return ours
    shard = re.compile(rf"{re.escape(split)}(-\d+-of-\d+)?", re.IGNORECASE)
    exact = [name for name in ours if any(shard.fullmatch(part) for part in Path(name).with_suffix("").parts)]
    if exact:
        return exact
    wanted = _SPLIT_WORDS.get(split, {split.lower()})
    found = [name for name in ours if wanted & _words(name)]
    if found or split != "train":
        return found
    known = set().union(*_SPLIT_WORDS.values())
    return [] if any(known & _words(name) for name in ours) else ours


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z]+", str(Path(name).with_suffix("")).lower()))


def _saved(folder: Path, spec: SourceSpec) -> Table:
    library = _library(str(folder))
    loaded = _load(library, str(folder), lambda: library.load_from_disk(str(folder)))
    if isinstance(loaded, library.DatasetDict):
        if spec.split not in loaded:
            raise DatasetError(f"{folder} has no split {spec.split!r} (it has {', '.join(loaded)}): set split")
        loaded = loaded[spec.split]
    return LibraryRows(loaded, folder.name, spec.limit_rows)


def _from_hub(spec: SourceSpec) -> Table:
    library = _library(spec.path)
    loaded = _load(library, spec.path, lambda: library.load_dataset(spec.path, spec.subset, split=spec.split))
    return LibraryRows(loaded, f"{spec.path}/{spec.split}", spec.limit_rows)


def _load(library: Any, what: str, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except ConnectionError as error:
        raise DatasetError(
            f"{what}: no hub can be reached ({error}). Download it elsewhere and give the folder; a folder here begins "
            "with ./ or /"
        ) from error
    except library.exceptions.DatasetGenerationError as error:
        raise DatasetError(
            f"{what} cannot be loaded by the library datasets: {error.__cause__ or error}. Where its files are "
            ".jsonl or .parquet, download them (hf download --repo-type dataset) and give the folder"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, library.exceptions.DatasetsError) as error:
        raise DatasetError(f"{what} cannot be loaded by the library datasets: {error}") from error


def _library(what: str) -> Any:
    try:
        library = import_module("datasets")
    except ImportError as error:
        raise DatasetError(f"{what} needs the library datasets: run pip install '.[datasets]'") from error
    library.disable_progress_bars()
    return library


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f", … ({len(names)} in all)" if len(names) > 6 else "")
