"""What people say of a run, beside its spec: labels, notes, a priority. They are in the run's folder, remarks.json.

A run's lease does not cover them: whoever has the folder may change them, while the run goes on elsewhere and after its
end, each in his turn (turns.py).
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from dapo.host.files import replacing, sync
from dapo.records.folder import RunFolder
from dapo.spec.problem import Problem
from dapo.spec.wording import shown_given
from services.orchestrator.records.turns import taking_turns

MOST_LABELS = 64
KEY = r"[A-Za-z0-9._/-]{1,63}"
"""Pattern of a label's key."""
LONGEST_VALUE = 255
"""Characters of a label's value."""
LONGEST_NOTES = 16 << 10
"""Bytes of UTF-8."""
PRIORITIES = range(-100, 101)
_NO_LABELS: Mapping[str, str] = MappingProxyType({})


class BadRemark(ValueError):
    """Something that is said of a run is beyond its limits; the message has the cure."""

    def __init__(self, field: str, message: str, given: object = None) -> None:
        problem = Problem(field, shown_given(field, given), message)
        super().__init__(str(problem))
        self.field, self.given, self.message = problem.field, problem.value, message


class RemarksDamaged(ValueError):
    """The file cannot be read; the message names it and the cure."""


class Remarks(NamedTuple):
    labels: Mapping[str, str] = _NO_LABELS
    notes: str = ""
    priority: int = 0
    """The higher goes first."""

    def check(self) -> None:
        """Raises BadRemark."""
        if len(self.labels) > MOST_LABELS:
            raise BadRemark("labels", f"{len(self.labels)} are more than {MOST_LABELS}. Remove some")
        for key, value in self.labels.items():
            check_key(f"labels.{key}", key)
            if len(value) > LONGEST_VALUE:
                raise BadRemark(
                    f"labels.{key}",
                    f"its value has {len(value)} characters, more than {LONGEST_VALUE}. Put long text into notes",
                    value,
                )
        if (size := len(self.notes.encode())) > LONGEST_NOTES:
            raise BadRemark("notes", f"{size} bytes are more than {LONGEST_NOTES}. Shorten them", self.notes)
        if self.priority not in PRIORITIES:
            raise BadRemark(
                "priority", f"take one from {PRIORITIES[0]} to {PRIORITIES[-1]}, 0 by default", self.priority
            )


UNSAID = Remarks()


class Edit(NamedTuple):
    """What is said anew. None: as it was."""

    labels: Mapping[str, str | None] = _NO_LABELS
    """By key; None removes it. Others stay."""
    notes: str | None = None
    priority: int | None = None

    @property
    def is_empty(self) -> bool:
        return not self.labels and self.notes is None and self.priority is None

    def of(self, before: Remarks) -> Remarks:
        labels = {**before.labels, **self.labels}
        return Remarks(
            {key: value for key, value in labels.items() if value is not None},
            before.notes if self.notes is None else self.notes,
            before.priority if self.priority is None else self.priority,
        )


def check_key(field: str, key: str) -> None:
    """Raises BadRemark for what is no label's key."""
    if not re.fullmatch(KEY, key):
        raise BadRemark(field, "is no key of a label: 1 to 63 letters, digits, dots, dashes, _ and /", key)


def read_remarks(run_dir: Path) -> Remarks:
    """Empty where nothing was said. Raises OSError, RemarksDamaged."""
    path = RunFolder(run_dir).remarks
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        return Remarks(
            {str(key): str(value) for key, value in found["labels"].items()},
            str(found["notes"]),
            int(found["priority"]),
        )
    except FileNotFoundError:
        return UNSAID
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RemarksDamaged(f"{path} is damaged: restore it, or remove it ({error!r})") from error


def write_remarks(run_dir: Path, remarks: Remarks) -> None:
    """Of a run that nobody else knows of yet. Raises OSError."""
    with replacing(RunFolder(run_dir).remarks) as scratch:
        _write(scratch, remarks)


@asynccontextmanager
async def changing(run_dir: Path, edit: Edit) -> AsyncIterator[None]:
    """The block is one with the edit: that counts, on the disk, once the block is through, and not where it raises.

    Raises BadRemark before the block, and what `taking_turns` and `read_remarks` raise.
    """
    async with taking_turns(run_dir):
        after = edit.of(await asyncio.to_thread(read_remarks, run_dir))
        after.check()
        with replacing(RunFolder(run_dir).remarks) as scratch:
            await asyncio.to_thread(_write, scratch, after)
            yield
        await asyncio.to_thread(sync, run_dir)


def _write(path: Path, remarks: Remarks) -> None:
    path.write_text(json.dumps({**remarks._asdict(), "labels": dict(remarks.labels)}), encoding="utf-8")
    sync(path)
