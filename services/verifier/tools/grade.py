"""`python -m services.verifier.tools.grade FILE …`: grades the rows of a jsonl file. Run by `dapo grade`.

Rows stream: memory holds a few batches of them, however long the file is.
"""

import argparse
import asyncio
import os
import signal
import sys
from contextlib import ExitStack
from typing import NamedTuple

from dapo.errors import first_leaf
from dapo.spec.tree.reward import RewardSpec
from services.verifier.graders import Verdict
from services.verifier.grading.dispatch import Grading
from services.verifier.grading.pool import GraderStartError
from services.verifier.tools.report import GradeReport, GradeSummary, Unwritable, make_report, writing
from services.verifier.tools.rows import ResponseFields, ResponseRow, RowBatch, RowReader, TooManyMalformed
from services.verifier.tools.rules import add_rules, make_grading

_RUN_ERROR = 1
_USER_ERROR = 2
_INTERRUPTED = 130


class _Pending(NamedTuple):
    batch: RowBatch
    verdicts: "asyncio.Task[list[Verdict]]"


class GradeCommand:
    """Reads, grades and reports at the same time, with at most `ahead` batches between reading and reporting."""

    def __init__(self, grading: Grading, reader: RowReader, report: GradeReport, ahead: int) -> None:
        self._grading = grading
        self._reader = reader
        self._report = report
        self._summary = GradeSummary()
        self._warned = False
        self._queue: asyncio.Queue[_Pending | None] = asyncio.Queue(ahead)

    async def run(self) -> GradeSummary:
        """Raises GraderStartError, TooManyMalformed, Unwritable, OSError, each perhaps in an ExceptionGroup."""
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._grading.run())
            group.create_task(self._read(group))
            await self._show()
            serving.cancel()
        return self._summary

    async def _read(self, group: asyncio.TaskGroup) -> None:
        # In a thread, as a pipe may keep us waiting.
        while (batch := await asyncio.to_thread(self._reader.take)) is not None:
            grade = self._grading.grade([row.request for row in batch.rows])
            await self._queue.put(_Pending(batch, group.create_task(grade)))
        await self._queue.put(None)

    async def _show(self) -> None:
        while (pending := await self._queue.get()) is not None:
            verdicts = await pending.verdicts
            with writing():
                for malformed in pending.batch.malformed:
                    self._summary.malformed += 1
                    self._report.set_aside(malformed)
                for row, verdict in zip(pending.batch.rows, verdicts, strict=True):
                    self._warn(row)
                    self._summary.add(row, verdict)
                    self._report.verdict(row, verdict)

    def _warn(self, row: ResponseRow) -> None:
        if not (self._warned or row.request.prompt or self._grading.is_local(row.request.grader)):
            self._warned = True
            sys.stderr.write(
                f"warning: line {row.line} has no prompt, which {row.request.grader!r} is to see. Name its field with "
                "--prompt-field\n"
            )


def _run(arguments: argparse.Namespace) -> GradeSummary:
    reward: RewardSpec = arguments.reward
    fields = ResponseFields(
        arguments.response_field, arguments.gold_field, arguments.correct_field, arguments.prompt_field
    )
    with ExitStack() as stack:
        if arguments.file == "-":
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python cannot interrupt a thread that waits for input.
            file, name = sys.stdin.buffer, "stdin"
        else:
            file, name = stack.enter_context(open(arguments.file, "rb")), arguments.file
        reader = RowReader(file, name, reward.grader, fields, arguments.malformed_limit)
        report = stack.enter_context(make_report(arguments.file, as_json=arguments.json))
        command = GradeCommand(make_grading(arguments), reader, report, 2 + 2 * reward.grader_processes)
        summary = asyncio.run(command.run())
    with writing():
        sys.stdout.flush()
        report.summary(summary)
        sys.stdout.flush()
    return summary


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.verifier.tools.grade", description=__doc__)
    parser.add_argument("file", help="jsonl file, or - for standard input")
    add_rules(parser)
    parser.add_argument("--response-field", default="response")
    parser.add_argument("--gold-field", default="gold")
    parser.add_argument("--correct-field", default="correct")
    parser.add_argument("--prompt-field", default="prompt")
    parser.add_argument("--malformed-limit", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def main() -> int:
    arguments = _parse()
    try:
        return _outcome(_run(arguments), arguments.file)
    except KeyboardInterrupt:
        return _fail("interrupted", _INTERRUPTED)
    except (ExceptionGroup, GraderStartError, TooManyMalformed, Unwritable, OSError) as error:
        match leaf := first_leaf(error):
            case BrokenPipeError():  # Who reads our output, e.g. `head`, has seen enough.
                _drop_output()
                return 0
            case Unwritable():
                _drop_output()
                return _fail(str(leaf), _USER_ERROR)
            case GraderStartError():
                sys.stdout.flush()
                return _fail(str(leaf), _RUN_ERROR)
            case TooManyMalformed() | OSError():
                sys.stdout.flush()
                return _fail(str(leaf), _USER_ERROR)
        raise


def _outcome(summary: GradeSummary, file: str) -> int:
    if not summary.graded:
        return _fail(f"{file} has no row that could be graded", _RUN_ERROR)
    if summary.failed == summary.graded:
        return _fail("every grading failed; the reasons are above", _RUN_ERROR)
    return 0


def _fail(message: str, code: int) -> int:
    sys.stderr.write(f"error: {message}\n")
    return code


def _drop_output() -> None:
    """Send buffered output to /dev/null, so that flushing it at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
