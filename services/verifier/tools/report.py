"""What `dapo grade` shows: a line for each verdict, and a summary with the rows that it disagrees with."""

import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from dapo.data.errors import Malformed
from dapo.terminal import one_line
from services.verifier.graders import Verdict
from services.verifier.tools.rows import ResponseRow

_SHOWN_DISAGREEMENTS = 100
_EXTRACTED_CHARACTERS = 60
_GOLD_CHARACTERS = 40


class Disagreement(NamedTuple):
    line: int
    expected: bool
    verdict: Verdict
    gold: str


class GradeSummary:
    """Counts of verdicts, the elapsed time, and the first hundred rows that the grader disagrees with."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self.reasons: Counter[str] = Counter()
        self.graded = self.right = self.failed = self.malformed = self.labelled = self.differing = 0
        self.disagreements: list[Disagreement] = []

    def add(self, row: ResponseRow, verdict: Verdict) -> None:
        self.graded += 1
        self.right += verdict.correct
        self.failed += verdict.failed
        self.reasons[verdict.reason] += 1
        if row.expected is None:
            return
        self.labelled += 1
        if row.expected != verdict.correct:
            self.differing += 1
            if len(self.disagreements) < _SHOWN_DISAGREEMENTS:
                self.disagreements.append(
                    Disagreement(row.line, row.expected, verdict, row.request.gold[:_GOLD_CHARACTERS])
                )

    def lines(self) -> list[Text]:
        """The summary."""
        parts = [f"{self.graded:,} graded", f"{self.right:,} right{_share(self.right, self.graded)}"]
        parts += [f"{self.failed:,} failed gradings"] * bool(self.failed)
        parts += [f"{self.malformed:,} malformed rows set aside"] * bool(self.malformed)
        seconds = time.monotonic() - self._began_s
        found = [Text(", ".join(parts) + f" in {seconds:.1f} s", "bold")]
        if self.graded:
            found.append(
                Text("reasons: " + ", ".join(f"{name} {count:,}" for name, count in self.reasons.most_common()))
            )
        return found + (self._agreement() if self.labelled else [])

    def _agreement(self) -> list[Text]:
        agreeing = self.labelled - self.differing
        found = [Text(f"agrees with {agreeing:,} of {self.labelled:,} labelled rows{_share(agreeing, self.labelled)}")]
        for line, expected, verdict, gold in self.disagreements:
            text = Text(f"  line {line}: the row says {_word(expected)}, the grader {_word(verdict.correct)} (")
            text.append(f"{verdict.reason}), answer ")
            text.append(one_line(verdict.extracted, _EXTRACTED_CHARACTERS, "cyan")).append(", gold ")
            found.append(text.append(one_line(gold, _GOLD_CHARACTERS, "cyan")))
        if self.differing > len(self.disagreements):
            found.append(Text(f"  … and {self.differing - len(self.disagreements):,} more"))
        return found


def _share(part: int, whole: int) -> str:
    return f" ({100 * part / whole:.2f} %)" if whole else ""


def _word(correct: bool) -> str:
    return "right" if correct else "wrong"


class Unwritable(Exception):
    """Standard output cannot be written, e.g. because the disk is full. The message says why."""


@contextmanager
def writing() -> Iterator[None]:
    """Around writes to standard output: raises Unwritable if they fail, BrokenPipeError if the reader has gone."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Unwritable(f"standard output cannot be written: {error.strerror or error}") from error


class GradeReport(Protocol):
    """Shows verdicts as they come. A context manager: entering raises Unwritable, all else OSError."""

    def __enter__(self) -> "GradeReport": ...
    def __exit__(self, *_: object) -> None: ...
    def verdict(self, row: ResponseRow, verdict: Verdict) -> None: ...
    def set_aside(self, malformed: Malformed) -> None: ...
    def summary(self, summary: GradeSummary) -> None: ...


class JsonReport:
    """JSON lines on stdout, all else on stderr, with a progress bar if only stderr is a terminal."""

    def __init__(self, size_bytes: int | None) -> None:
        self._console = Console(stderr=True)
        bar = self._console.is_terminal and not sys.stdout.isatty()
        self._progress = _Progress(self._console, size_bytes, bar)

    def __enter__(self) -> "JsonReport":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def verdict(self, row: ResponseRow, verdict: Verdict) -> None:
        found = {"line": row.line, "correct": verdict.correct, "score": verdict.score, "reason": verdict.reason}
        found |= {"extracted": verdict.extracted} | ({"parts": dict(verdict.parts)} if verdict.parts else {})
        sys.stdout.write(json.dumps(found) + "\n")
        self._progress.reach(row.end)

    def set_aside(self, malformed: Malformed) -> None:
        self._console.print(one_line(str(malformed), 300, "yellow"), soft_wrap=True)

    def summary(self, summary: GradeSummary) -> None:
        _print_summary(self._console, summary)


class TableReport:
    """Lines for people, coloured on a terminal."""

    def __init__(self, size_bytes: int | None) -> None:
        self._console = Console()
        self._progress = _Progress(self._console, size_bytes, self._console.is_terminal)

    def __enter__(self) -> "TableReport":
        with writing():
            self._progress.start()
            self._console.print(Text(f"{'line':>8}  verdict  score  {'reason':<16}  answer", "dim"))
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def verdict(self, row: ResponseRow, verdict: Verdict) -> None:
        word, colour = ("failed", "yellow") if verdict.failed else (_word(verdict.correct), "")
        text = Text(f"{row.line:>8}  ")
        text.append(f"{word:<7}", colour or ("green" if verdict.correct else "red"))
        text.append(f"  {verdict.score:.3f}  {verdict.reason:<16}  ").append(
            one_line(verdict.extracted, _EXTRACTED_CHARACTERS)
        )
        if row.expected is not None and row.expected != verdict.correct:
            text.append(f"  (the row says {_word(row.expected)})", "magenta")
        self._console.print(text, soft_wrap=True)
        self._progress.reach(row.end)

    def set_aside(self, malformed: Malformed) -> None:
        self._console.print(one_line(f"malformed: {malformed}", 300, "yellow"), soft_wrap=True)

    def summary(self, summary: GradeSummary) -> None:
        _print_summary(self._console, summary)


def _print_summary(console: Console, summary: GradeSummary) -> None:
    for line in summary.lines():
        console.print(line, soft_wrap=True)


class _Progress:
    """By bytes of the file; none for a pipe."""

    def __init__(self, console: Console, size_bytes: int | None, wanted: bool) -> None:
        columns = (TextColumn("grading"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not wanted or not size_bytes)
        self._task = self._bar.add_task("rows", total=size_bytes)

    def start(self) -> None:
        self._bar.start()

    def stop(self) -> None:
        self._bar.stop()

    def reach(self, position: int) -> None:
        self._bar.update(self._task, completed=position)


def make_report(path: str, *, as_json: bool) -> GradeReport:
    size = None if path == "-" else os.path.getsize(path)
    return JsonReport(size) if as_json else TableReport(size)
