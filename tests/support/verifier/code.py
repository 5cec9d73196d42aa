"""Programs and gold answers for the tests of `code`."""

import json
import os
from pathlib import Path

SUM = {"tests": [{"input": "1 2\n", "output": "3\n"}, {"input": "40 2", "output": "42"}]}
RIGHT = "print(sum(map(int, input().split())))"
ASSERTS = """
assert area(2, 3) == 6
assert abs(area(0.5, 4) - 2.0) < 1e-9
assert area(1, 7) in (7, 7.0)
assert area(2, 2) != 5 and area(2, 2) == 4
result = area(3, 3)
assert isinstance(result, int) and result == 9
assert area(10, 10) > 99
"""
"""Tests of a right `area(a, b)`."""


def fenced(program: str, language: str = "python") -> str:
    return f"Here it is:\n```{language}\n{program}\n```\nDone."


def gold(**fields: object) -> str:
    return json.dumps(fields or SUM)


def descendants(root: int) -> dict[int, str]:
    """Command line of every process below `root`, by pid."""
    table: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            table[int(entry.name)] = parent, command
    found = {root}
    while more := {pid for pid, (parent, _) in table.items() if parent in found} - found:
        found |= more
    return {pid: table[pid][1] for pid in found if pid != root and pid != os.getpid() and pid in table}
