"""`python -m services.verifier.reasoning_rows TASK OUT`: rows of a generated task. Behind `dapo data reasoning-gym`."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from services.verifier.graders.reasoning_gym import SUPPORTED, encode_gold

_INSTRUCTION = "Write your final answer, and nothing else, between <answer> and </answer>."


class Refused(ValueError):
    """The task or the file cannot be had; the message says why."""


def generate(task: str, rows: int, seed: int) -> Iterator[dict[str, Any]]:
    """The same rows for the same arguments. Raises Refused."""
    if task not in SUPPORTED:
        names = ", ".join(sorted(SUPPORTED))
        raise Refused(
            f"the task {task!r} is not supported, as its answers cannot be graded safely. Take one of {names}"
        )
    try:
        import reasoning_gym
    except ImportError as error:
        raise Refused(f"the library reasoning-gym is missing ({error}): pip install '.[reasoning-gym]'") from error
    for entry in reasoning_gym.create_dataset(task, size=rows, seed=seed):
        yield {
            "prompt": f"{entry['question']}\n\n{_INSTRUCTION}",
            "gold": encode_gold(task, entry),
            "grader": "reasoning_gym",
            "answer": entry["answer"],
        }


def write(rows: Iterator[dict[str, Any]], out: Path, *, force: bool) -> int:
    """How many were written. The file is complete or not there. Raises Refused, OSError."""
    if out.exists() and not force:
        raise Refused(f"{out} exists. Give another name, or --force")
    unfinished = out.with_name(out.name + ".unfinished")
    written = 0
    with unfinished.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            written += 1
    unfinished.replace(out)
    return written


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m services.verifier.reasoning_rows", description=__doc__)
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
            raise Refused("name the file to write: dapo data reasoning-gym TASK OUT.jsonl")
        written = write(generate(arguments.task, arguments.rows, arguments.seed), arguments.out, force=arguments.force)
    except Refused as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"error: {error.filename}: {error.strerror}\n")
        return 2
    sys.stdout.write(f"{written} rows of {arguments.task}: {arguments.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
