"""What a run has done, read from the embedded Valkey's append-only files, which no part of the platform reads.

Valkey writes each change there, those of scripts too, before it answers. Files that it has rewritten or that a finished
run deletes are kept by hard links (`JournalKeeper`), so that nothing is missing from the first prompt on.
"""

import os
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dapo.v1 import messages_pb2 as pb

_FILES = "appendonlydir/*.incr.aof"
_NUMBER = re.compile(r"\.(\d+)\.incr\.aof$")
_ENTRY = re.compile(rb"\d+-\d+")
_LOOK_S = 0.2


@dataclass
class Journal:
    """The facts, in the order in which they came to be. The ledger's own counts are not among them."""

    issued: dict[str, pb.PromptTask] = field(default_factory=dict)
    """Group id -> its prompt."""
    issued_again: list[str] = field(default_factory=list)
    """Ids of groups that were issued though they had been."""
    completions: dict[tuple[str, int], pb.Completion] = field(default_factory=dict)
    """(group, index) -> the response that was accepted, the last one where one was withdrawn."""
    grades: dict[str, dict[int, bool]] = field(default_factory=dict)
    """Group -> index -> whether the response is correct."""
    batches: list[pb.TrainBatch] = field(default_factory=list)
    steps: list[pb.StepReport] = field(default_factory=list)
    dead: list[tuple[str, str]] = field(default_factory=list)
    """Dead letters: group and reason."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Entry -> group id of the prompts that are still on their stream."""

    @property
    def accepted_tokens(self) -> int:
        return sum(completion.response_tokens for completion in self.completions.values())


class JournalKeeper:
    """Keeps the append-only files below `folder` in `kept`, while it is entered, also those that are deleted there."""

    def __init__(self, folder: Path, kept: Path) -> None:
        self._folder = folder
        self._kept = kept
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    def __enter__(self) -> "JournalKeeper":
        self._kept.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._over.wait(_LOOK_S):
            for path in self._folder.glob(f"**/{_FILES}"):
                copy = self._kept / path.name
                if not copy.exists():
                    os.link(path, copy)

    def read(self, run_id: str) -> Journal:
        files = sorted(self._kept.iterdir(), key=lambda path: int(_NUMBER.findall(path.name)[0]))
        return read_journal((command for path in files for command in commands(path.read_bytes())), run_id)


def commands(data: bytes) -> Iterator[list[bytes]]:
    """Of an append-only file; one that was cut off at its end is left out."""
    at = 0
    while (end := data.find(b"\r\n", at)) >= 0:
        if data[at : at + 1] != b"*":  # A timestamp, `#TS:…`.
            at = end + 2
            continue
        parts = []
        count, at = int(data[at + 1 : end]), end + 2
        for _ in range(count):
            end = data.find(b"\r\n", at)
            if end < 0:
                return
            size = int(data[at + 1 : end])
            at = end + 2 + size + 2
            if at > len(data):
                return
            parts.append(data[end + 2 : end + 2 + size])
        yield parts


def read_journal(written: Iterable[list[bytes]], run_id: str) -> Journal:
    """From commands as Valkey writes them down."""
    journal = Journal()
    prefix = b"dapo:{%s}:" % run_id.encode()
    for name, *arguments in written:
        if arguments and arguments[0].startswith(prefix):
            key = arguments[0].removeprefix(prefix).decode()
            if key.startswith("g:"):
                _group(journal, key[2:], name.upper(), arguments[1:])
            elif name.upper() == b"XADD":
                _entry(journal, key, arguments[1:])
            elif name.upper() == b"XDEL" and key == "prompts":
                for entry in arguments[1:]:
                    journal.waiting.pop(entry.decode(), None)
    return journal


def _group(journal: Journal, group_id: str, name: bytes, arguments: list[bytes]) -> None:
    if name == b"HSETNX" and group_id in journal.issued:
        journal.issued_again.append(group_id)
    if name not in (b"HSET", b"HMSET"):
        return
    for field_name, value in zip(arguments[::2], arguments[1::2], strict=True):
        kind, _, index = field_name.partition(b":")
        if field_name == b"task":
            journal.issued[group_id] = pb.PromptTask.FromString(value)
        elif kind == b"completion":
            journal.completions[group_id, int(index)] = pb.Completion.FromString(value)
        elif kind == b"grade":
            journal.grades.setdefault(group_id, {})[int(index)] = pb.Grade.FromString(value).correct


def _entry(journal: Journal, stream: str, arguments: list[bytes]) -> None:
    at = next(at for at, part in enumerate(arguments) if _ENTRY.fullmatch(part))
    fields = dict(zip(arguments[at + 1 :: 2], arguments[at + 2 :: 2], strict=True))
    if stream == "prompts":
        journal.waiting[arguments[at].decode()] = fields[b"data"].decode()
    elif stream == "batches":
        journal.batches.append(pb.TrainBatch.FromString(fields[b"data"]))
    elif stream == "steps":
        journal.steps.append(pb.StepReport.FromString(fields[b"data"]))
    elif stream == "dead":
        journal.dead.append((fields[b"group"].decode(), fields[b"reason"].decode()))
