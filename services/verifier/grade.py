"""`python -m services.verifier.grade FILE …`: a verdict for each row of a jsonl file, in order. Behind `dapo grade`.

Rows stream: memory holds a few batches of them, however long the file is.
"""

import argparse
import asyncio
import os
import signal
import sys
from contextlib import ExitStack
from typing import NamedTuple

from pydantic import TypeAdapter

from dapo.spec.graders import GraderSpec
from dapo.spec.reward import RewardSpec
from services.verifier.grade_report import Report, Tally, make_report
from services.verifier.graded_rows import Batch, Fields, RowReader, TooManyMalformed
from services.verifier.graders import Verdict
from services.verifier.grading import Grading
from services.verifier.pool import GraderStartError

_RUN_ERROR = 1
_USER_ERROR = 2
_INTERRUPTED = 130


class _Pending(NamedTuple):
    batch: Batch
    verdicts: "asyncio.Task[list[Verdict]]"


class GradeCommand:
    """Reads, grades and reports at the same time, with at most `ahead` batches between reading and reporting."""

    def __init__(self, grading: Grading, reader: RowReader, report: Report, ahead: int) -> None:
        self._grading = grading
        self._reader = reader
        self._report = report
        self._queue: asyncio.Queue[_Pending | None] = asyncio.Queue(ahead)

    async def run(self) -> Tally:
        """Raises GraderStartError, TooManyMalformed, OSError, each perhaps in an ExceptionGroup."""
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._grading.run())
            group.create_task(self._read(group))
            tally = await self._show()
            serving.cancel()
        return tally

    async def _read(self, group: asyncio.TaskGroup) -> None:
        # In a thread, as a pipe may keep us waiting.
        while (batch := await asyncio.to_thread(self._reader.take)) is not None:
            grade = self._grading.grade([row.request for row in batch.rows])
            await self._queue.put(_Pending(batch, group.create_task(grade)))
        await self._queue.put(None)

    async def _show(self) -> Tally:
        tally = Tally()
        while (pending := await self._queue.get()) is not None:
            for malformed in pending.batch.malformed:
                tally.malformed += 1
                self._report.set_aside(malformed)
            for row, verdict in zip(pending.batch.rows, await pending.verdicts, strict=True):
                tally.add(row, verdict)
                self._report.verdict(row, verdict)
        return tally


def _run(arguments: argparse.Namespace) -> None:
    reward = RewardSpec.model_validate_json(arguments.reward)
    graders = TypeAdapter(dict[str, GraderSpec]).validate_json(arguments.graders)
    fields = Fields(arguments.response_field, arguments.gold_field, arguments.correct_field, arguments.prompt_field)
    with ExitStack() as stack:
        if arguments.file == "-":
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # A thread that waits for input does not hear of Ctrl-C.
            file, name = sys.stdin.buffer, "stdin"
        else:
            file, name = stack.enter_context(open(arguments.file, "rb")), arguments.file
        reader = RowReader(file, name, reward.grader, fields, arguments.malformed_limit)
        with make_report(arguments.file, as_json=arguments.json) as report:
            command = GradeCommand(Grading(graders, reward), reader, report, 2 + 2 * reward.grader_processes)
            tally = asyncio.run(command.run())
        sys.stdout.flush()
        report.summary(tally)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m services.verifier.grade", description=__doc__)
    parser.add_argument("file", help="jsonl file, or - for standard input")
    parser.add_argument("--reward", required=True, help="RewardSpec as JSON")
    parser.add_argument("--graders", default="{}", help="options of graders by name, as JSON")
    parser.add_argument("--response-field", default="response")
    parser.add_argument("--gold-field", default="gold")
    parser.add_argument("--correct-field", default="correct")
    parser.add_argument("--prompt-field", default="prompt")
    parser.add_argument("--malformed-limit", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _leaf(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def main() -> int:
    arguments = _parse()
    try:
        _run(arguments)
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return _INTERRUPTED
    except (ExceptionGroup, GraderStartError, TooManyMalformed, OSError) as error:
        match leaf := _leaf(error):
            case BrokenPipeError():  # Who reads our output, e.g. `head`, has seen enough.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                return 0
            case GraderStartError():
                code = _RUN_ERROR
            case TooManyMalformed() | OSError():
                code = _USER_ERROR
            case _:
                raise
        sys.stdout.flush()
        sys.stderr.write(f"error: {leaf}\n")
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
