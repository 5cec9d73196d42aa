"""`python -m services.verifier.tools.reasoning_rows TASK OUT`, run by `dapo data reasoning-gym`: rows of a task."""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from decimal import localcontext
from pathlib import Path
from typing import Any

from dapo.data.errors import DatasetError
from dapo.data.outputs import check_output, open_output
from dapo.spec.tree.graders import ReasoningGymGrader
from services.verifier.graders.reasoning_gym import SUPPORTED, encode_gold, make_reasoning_gym

_INSTRUCTION = "Write your final answer, and nothing else, between <answer> and </answer>."


class CannotGenerate(ValueError):
    """No rows of this task can be generated. The message says why."""


def generate_rows(task: str, rows: int, seed: int) -> Iterator[dict[str, Any]]:
    """The same rows for the same arguments, of `rows` those whose gold answer the task's own rule takes for right.

    Raises CannotGenerate, at once.
    """
    if task not in SUPPORTED:
        names = ", ".join(sorted(SUPPORTED))
        raise CannotGenerate(
            f"the task {task!r} is not supported, as its answers cannot be graded safely. Take one of {names}"
        )
    try:
        import reasoning_gym
    except ImportError as error:
        raise CannotGenerate(
            f"the library reasoning-gym is missing ({error}): pip install '.[reasoning-gym]'"
        ) from error
    gold_problem = make_reasoning_gym(ReasoningGymGrader()).gold_problem
    made = (
        {
            "prompt": f"{entry['question']}\n\n{_INSTRUCTION}",
            "gold": encode_gold(task, entry),
            "grader": "reasoning_gym",
            "answer": entry["answer"],
        }
        for entry in _entries(reasoning_gym.create_dataset(task, size=rows, seed=seed))
    )
    return (row for row in made if not gold_problem(row["gold"]))


def _entries(dataset: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The library changes the precision of this thread's decimals, which is not its own."""
    for at in range(len(dataset)):
        with localcontext():
            entry = dataset[at]
        yield entry


def write(rows: Iterable[dict[str, Any]], out: Path, *, force: bool) -> int:
    """How many were written. The file is complete or not there. Raises DatasetError, OSError."""
    check_output(out, [".jsonl"], [], force=force)
    written = 0
    with open_output(out) as output:
        for row in rows:
            output.write(row)
            written += 1
        output.finish()
    return written


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services.verifier.tools.reasoning_rows", description=__doc__)
    parser.add_argument("task")
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true")
    arguments = parser.parse_args()
    if arguments.task == "list":
        sys.stdout.write("\n".join(sorted(SUPPORTED)) + "\n")
        return 0
    try:
        if arguments.out is None:
            raise CannotGenerate("name the file to write: dapo data reasoning-gym TASK OUT.jsonl")
        written = write(
            generate_rows(arguments.task, arguments.rows, arguments.seed), arguments.out, force=arguments.force
        )
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        return 130
    except (CannotGenerate, DatasetError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"error: {arguments.out} cannot be written: {error.strerror or error}\n")
        return 2
    sys.stdout.write(f"{written} rows of {arguments.task}: {arguments.out}\n")
    if written < arguments.rows:
        left_out = arguments.rows - written
        sys.stderr.write(f"warning: {left_out} rows are left out, as the task's own rule does not take their answer\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
