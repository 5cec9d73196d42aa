"""Rooms that one sees from outside: files and folders of a bounded size, and a sentence at each door."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import REPO

LONGEST_FILE = 350
"""Lines."""
LARGEST_FOLDER = 12
"""Modules, `__init__.py` and conftest.py aside."""
GENERATED = REPO / "dapo/v1"
PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENTRY_POINTS = PROJECT["scripts"] | {
    name: target for group in PROJECT["entry-points"].values() for name, target in group.items()
}


def files(*tops: str) -> Iterator[Path]:
    """Python files that people write."""
    for top in tops:
        yield from (path for path in sorted((REPO / top).rglob("*.py")) if GENERATED not in path.parents)


def packages() -> list[Path]:
    """Folders of dapo and services with modules in them, or with such folders."""
    found = {folder for path in files("dapo", "services") for folder in path.parents if REPO in folder.parents}
    return sorted({*found, GENERATED})


def listed(paths: dict[Path, str], cure: str) -> str:
    return "\n".join([*(f"{path.relative_to(REPO)}: {what}" for path, what in paths.items()), cure])


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_bytes().splitlines()) for path in files("dapo", "services", "benchmarks", "tests")}
    assert len(lengths) > 100
    wrong = {path: f"{lines} lines" for path, lines in lengths.items() if lines > LONGEST_FILE}
    assert not wrong, listed(wrong, f"More than {LONGEST_FILE} lines: divide it by subject.")


def test_no_folder_is_too_full() -> None:
    counts: dict[Path, int] = {}
    for path in files("dapo", "services", "benchmarks", "tests"):
        if path.name not in ("__init__.py", "conftest.py"):
            counts[path.parent] = counts.get(path.parent, 0) + 1
    wrong = {folder: f"{count} modules" for folder, count in counts.items() if count > LARGEST_FOLDER}
    assert not wrong, listed(wrong, f"More than {LARGEST_FOLDER} modules: make sub-packages of those that go together.")


def test_every_package_says_what_it_holds() -> None:
    wrong = {}
    for folder in packages():
        door = folder / "__init__.py"
        if not door.exists():
            wrong[door] = "is missing"
            continue
        text = door.read_text(encoding="utf-8")
        if not text.startswith('"""') or not ast.get_docstring(ast.parse(text)):
            wrong[door] = "has no docstring in its first line"
    assert not wrong, listed(wrong, "Say there what the room holds, in one or two sentences.")


@pytest.mark.parametrize("name", ENTRY_POINTS)
def test_every_entry_point_is_there(name: str) -> None:
    """Read, not imported: SGLang's platform needs torch."""
    module, _, attribute = ENTRY_POINTS[name].partition(":")
    path = REPO / f"{module.replace('.', '/')}.py"
    assert path.is_file(), f"pyproject.toml: {name} names the module {module}, and there is no {path.relative_to(REPO)}"
    assert attribute in set(_defined(ast.parse(path.read_text(encoding="utf-8")))), (
        f"pyproject.toml: {name} names {attribute}, which {path.relative_to(REPO)} does not define"
    )


def _defined(module: ast.Module) -> Iterator[str]:
    for statement in module.body:
        match statement:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
