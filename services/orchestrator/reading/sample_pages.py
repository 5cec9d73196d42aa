"""Samples of a run in pages, the newest first, however long their file is."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from dapo.records.json_lines import lines_backwards
from dapo.records.samples import Group, Sample, SampleFile, SampleFilter, evaluation_files, training_files

_SEARCHED_BYTES = 16 << 20
"""Of one request; the next goes on behind them."""
_CURSOR = re.compile(r"([0-9]{1,20})-([0-9]{1,20})")


class BadCursor(LookupError):
    """What is no place in the run's samples, or no longer."""


class SamplePage(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    samples: list[Sample]
    """The newest first; of a group of an evaluation `step` is that whose weights were evaluated."""
    cursor: str
    """Where the next page begins; empty: there is none. A page may have fewer samples than were asked for, even none,
    and a next one all the same: a filter that finds little searches some megabytes at a time."""


class _Place(NamedTuple):
    """Files are told by their inode, which they keep when they get another name."""

    inode: int
    offset: int


def sample_files(run_dir: Path, set_name: str) -> list[SampleFile]:
    """Of training, or of an evaluation set; the newest first."""
    return (evaluation_files(run_dir, set_name) if set_name else training_files(run_dir))[::-1]


def read_page(files: list[SampleFile], wanted: SampleFilter, limit: int, cursor: str) -> SamplePage:
    """Lines that are no sample are passed over. Raises BadCursor, OSError."""
    found: list[Sample] = []
    searched, last = 0, cursor
    for place, line, step in _lines(files, _parse(cursor) if cursor else None):
        if len(found) == limit or searched >= _SEARCHED_BYTES:
            return SamplePage(samples=found, cursor=last)
        searched, last = searched + len(line), f"{place.inode}-{place.offset}"
        try:
            sample = Sample.model_validate_json(line)
        except ValidationError:
            continue
        group = Group(sample.step if step is None else step, sample)
        if wanted.group(group) and wanted.responses(sample):
            found.append(sample.model_copy(update={"step": group.step}))
    return SamplePage(samples=found, cursor="")


def _lines(files: list[SampleFile], start: _Place | None) -> Iterator[tuple[_Place, bytes, int | None]]:
    """Behind `start`, newest first."""
    for path, step in files:
        found, before = path.stat(), None
        inode = found.st_ino
        if start is not None:
            if inode != start.inode:
                continue
            if start.offset > found.st_size:
                break
            before, start = start.offset, None
        for offset, line in lines_backwards(path, before):
            yield _Place(inode, offset), line, step
    if start is not None:
        raise BadCursor("the samples that it points to are gone: begin without a cursor")


def _parse(cursor: str) -> _Place:
    if (found := _CURSOR.fullmatch(cursor)) is None:
        raise BadCursor("is no cursor of a page of samples: give the `next` of the page before")
    return _Place(int(found[1]), int(found[2]))
