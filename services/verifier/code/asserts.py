"""Static analysis of tests in Python: which statements are tests, and which names they take from the program.

A test is a top-level statement that holds a check, or a function called test_…. A check is an `assert`, a
`raise AssertionError`, a call of something `assert…` of the tests' own or of a module they import (NumPy's
`assert_allclose`), or a call of one of the tests' functions that holds a check. Other statements only prepare tests.
"""

import ast
import builtins
import sys
from collections.abc import Iterable, Iterator
from typing import Any

SOLUTION = "solution"
"""Name of the module as which tests may import the program."""
_WELL_KNOWN = {
    *("np", "numpy", "pd", "pandas", "scipy", "torch", "tf", "tensorflow", "jax", "jnp", "sklearn", "sympy"),
    *("plt", "matplotlib", "nx", "networkx"),
}
"""Names that usually stand for modules."""
Statement = tuple[bool, Any]
"""Whether it is a test, and its code."""


class UnsupportedTests(Exception):
    """The tests cannot be run here, whatever the program."""


def read(source: str) -> tuple[ast.Module, list[Statement]]:
    """The tests and their statements in order; functions called test_… come last. Raises UnsupportedTests."""
    try:
        tree = ast.parse(source, "tests.py")
        _refuse_unittest(tree)
        checks = _Checks(tree)
        statements = [(checks.is_test(one), _compile(one)) for one in tree.body]
        return tree, statements + [(True, _compile(one)) for one in _calls(tree)]
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UnsupportedTests(f"the asserts are no Python: {error}") from error


def count_tests(source: str, modules: Iterable[str] = ()) -> int:
    """Number of tests. `modules` are those that programs may import. Raises UnsupportedTests."""
    tree, statements = read(source)
    _refuse_free_modules(tree, modules)
    return sum(is_test for is_test, _ in statements)


def identifiers(tree: ast.AST) -> set[str]:
    """All names, attributes and imported names."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                found.add(name)
    return found


def imported(tree: ast.AST) -> set[str]:
    """Names that the tests import from elsewhere than the program."""
    found: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                found.update(one.asname or _first(one.name) for one in names if _first(one.name) != SOLUTION)
            case ast.ImportFrom(module=module, names=names) if module is None or _first(module) != SOLUTION:
                found.update(one.asname or one.name for one in names)
    return found


def wanted_names(source: str) -> set[str]:
    """Names that the tests use and do not bind, so the program is to define them; none where they are no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    found: set[str] = set()
    renamed: set[str | None] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Load()):
                found.add(name)
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module == SOLUTION:
                found.add(name)
            case ast.ImportFrom(module=module, names=names) if module == SOLUTION:
                found.update(one.name for one in names)
                renamed.update(one.asname for one in names)
    return found - renamed - _bound(tree) - vars(builtins).keys() - own_modules(tree)


def own_modules(tree: ast.AST) -> set[str]:
    """Modules of the standard library that the tests use, imported or not. A program must not replace them."""
    return {name for name in _used_as_modules(tree) if name in sys.stdlib_module_names and name in sys.modules}


def _first(name: str) -> str:
    return name.partition(".")[0]


def _used_as_modules(tree: ast.AST) -> set[str]:
    return {
        node.value.id for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }


def _bound(tree: ast.AST) -> set[str]:
    """Names that the tests bind."""
    found = imported(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name, ctx=ast.Store()) | ast.arg(arg=name) | ast.ClassDef(name=name):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
    return found


def _refuse_free_modules(tree: ast.AST, modules: Iterable[str]) -> None:
    """Raises UnsupportedTests for modules used without an import: the program would decide what they are."""
    free = (_used_as_modules(tree) & (_WELL_KNOWN | {_first(name) for name in modules})) - _bound(tree)
    if free:
        raise UnsupportedTests(
            f"the asserts use {', '.join(sorted(free))} without importing it, so the program would decide what it is: "
            "put the import before them"
        )


def _refuse_unittest(tree: ast.AST) -> None:
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef(name=name, bases=bases) if any(_last(base).endswith("TestCase") for base in bases):
                what = f"class {name}"
            case ast.Call(func=ast.Attribute(value=ast.Name(id="unittest"), attr="main")):
                what = "unittest.main"
            case _:
                continue
        raise UnsupportedTests(f"{what}: test cases of unittest are not run here. Write asserts, or functions test_…")


def _last(name: ast.AST) -> str:
    """Last part of a dotted name."""
    match name:
        case ast.Name(id=last) | ast.Attribute(attr=last):
            return last
    return ""


def _root(value: ast.AST) -> str:
    """The name that `numpy.testing.assert_equal` or `unittest.TestCase().assertEqual` begins with."""
    while isinstance(value, (ast.Attribute, ast.Call)):
        value = value.value if isinstance(value, ast.Attribute) else value.func
    return _last(value)


def _calls(tree: ast.Module) -> Iterator[ast.stmt]:
    for one in tree.body:
        if isinstance(one, ast.FunctionDef) and one.name.startswith("test_"):
            yield ast.Expr(ast.Call(ast.Name(one.name, ast.Load()), [], []))


def _compile(statement: ast.stmt) -> Any:
    return compile(ast.fix_missing_locations(ast.Module([statement], [])), "tests.py", "exec")


class _Checks:
    """Decides which statements of these tests are checks."""

    def __init__(self, tree: ast.Module) -> None:
        self._own = _bound(tree) | (_used_as_modules(tree) & sys.stdlib_module_names)
        self._functions: set[str] = set()
        """Those of the tests that hold a check."""
        functions = [one for one in ast.walk(tree) if isinstance(one, (ast.FunctionDef, ast.AsyncFunctionDef))]
        while more := {one.name for one in functions if self._holds_check(one)} - self._functions:
            self._functions |= more

    def is_test(self, statement: ast.stmt) -> bool:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)):
            return False
        # The body of `if __name__ == "__main__"` does not run.
        if isinstance(statement, ast.If) and "__name__" in identifiers(statement.test):
            return False
        return self._holds_check(statement)

    def _holds_check(self, tree: ast.AST) -> bool:
        return any(self._is_check(node) for node in ast.walk(tree))

    def _is_check(self, node: ast.AST) -> bool:
        match node:
            case ast.Assert():
                return True
            case ast.Raise(exc=ast.Name(id="AssertionError") | ast.Call(func=ast.Name(id="AssertionError"))):
                return True
            case ast.Call(func=function):
                name = _last(function)
                return name in self._functions or (name.startswith("assert") and _root(function) in self._own)
        return False
