"""Pages that can be followed: whatever they name of the repository is there.

A path is written from the top of the repository, a function or a class as `folder/module.py:name` or
`folder/module.py:Class.method`. `services/*` and `runs/<id>` are patterns, which nobody looks for.
"""

import ast
import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.paths import REPO

PAGES = sorted([REPO / "README.md", *(REPO / "docs").rglob("*.md"), *(REPO / "examples").rglob("*.md")])
TOPS = ("dapo", "services", "docs", "tests", "examples", "proto", "benchmarks", "scripts", "requirements", "deploy")
PATH = re.compile(rf"(?<![\w./-])(?P<path>(?:{'|'.join(TOPS)})/[\w./*<>…-]*)(?::(?P<name>[A-Za-z_][\w.]*))?")
LINK = re.compile(r"\]\((?P<target>[^)#\s]+)")
PATTERN = re.compile(r"[*<>…]")
INDEX = REPO / "docs/architecture.md"
FEWEST_NAMES = 60
"""Of functions and classes in the index: fewer, and the notation is another than this test reads."""


class Named(NamedTuple):
    """What a page names at a line."""

    line: int
    path: str
    name: str = ""


def named(page: Path, text: str) -> Iterator[Named]:
    """Paths of the repository in the text, the code and the links of a page."""
    for number, line in enumerate(text.splitlines(), 1):
        for match in LINK.finditer(line):
            if "://" not in match["target"]:
                yield Named(number, os.path.relpath(page.parent / match["target"], REPO))
        for match in PATH.finditer(LINK.sub("](", line)):
            path = match["path"].rstrip(".")
            if not PATTERN.search(path):
                yield Named(number, path, (match["name"] or "").rstrip("."))


@cache
def names_in(path: Path) -> frozenset[str]:
    """`name` and `Class.name` of all that a module defines."""
    return frozenset(_defined(ast.parse(path.read_text(encoding="utf-8")).body))


def _defined(body: list[ast.stmt], prefix: str = "") -> Iterator[str]:
    for statement in body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield prefix + name
            case ast.ClassDef(name=name):
                yield prefix + name
                yield from _defined(statement.body, f"{prefix}{name}.")
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield prefix + name


def missing(one: Named) -> str | None:
    """What is not there, in words."""
    path = REPO / one.path
    if not path.exists():
        return f"there is no {one.path}"
    if not one.name:
        return None
    if path.suffix != ".py":
        return f"{one.path} is no module, so it has no {one.name}"
    return None if one.name in names_in(path) else f"{one.path} defines no {one.name}"


def _read(page: Path) -> list[Named]:
    return list(named(page, page.read_text(encoding="utf-8")))


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(REPO)) for page in PAGES])
def test_what_a_page_names_is_there(page: Path) -> None:
    where = page.relative_to(REPO)
    found = [f"{where}:{one.line}: {what}" for one in _read(page) if (what := missing(one))]
    assert not found, "\n".join([*found, "Write what it is called now, or take it out."])


def test_the_index_names_functions() -> None:
    assert sum(bool(one.name) for one in _read(INDEX)) >= FEWEST_NAMES


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("see `dapo/nowhere.py`", "there is no dapo/nowhere.py"),
        ("| a | `dapo/worker.py:run_walker` |", "dapo/worker.py defines no run_walker"),
        ("| a | `dapo/worker.py:WorkerEnvironment.reed`, |", "dapo/worker.py defines no WorkerEnvironment.reed"),
        ("`README.md`, [it](nowhere.md#here).", "there is no docs/nowhere.md"),
        ("`docs/pacing.md:why`", "docs/pacing.md is no module, so it has no why"),
        ("`dapo train examples/nowhere.yaml --set a=1`", "there is no examples/nowhere.yaml"),
        ("`services/*`, `dapo/worker.py:run_worker`, [it](pacing.md#terms), https://x.org/docs/nowhere", None),
    ],
)
def test_what_is_missing_is_found(line: str, what: str | None) -> None:
    found = [(one.line, gone) for one in named(INDEX, f"# Title\n\n{line}\n") if (gone := missing(one))]
    assert found == ([(3, what)] if what else [])
