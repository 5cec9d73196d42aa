"""Names that a program may use without importing them, as the judges of APPS, LiveCodeBench and LeetCode allow.

They are further built-in functions in the program's process: found last, so a name that the program binds is its own.
The tests' process does not have them.
"""

import builtins
import importlib
import sys
from collections.abc import Mapping
from typing import Any

_MODULES = (
    *("typing", "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "json"),
)
"""Of these all public names are there, of a later module before an earlier one's, and the modules themselves."""
_MODULES_ALONE = ("sys", "os", "time", "decimal", "fractions", "array", "queue", "numbers", "cmath")
_OF_SYS = ("setrecursionlimit", "maxsize")


def usual_names() -> Mapping[str, Any]:
    """The names and what they stand for, without those of Python's own built-in functions."""
    found: dict[str, Any] = {}
    for name in _MODULES:
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None) or [one for one in vars(module) if not one.startswith("_")]
        found.update((one, getattr(module, one)) for one in public)
    found.update((name, getattr(sys, name)) for name in _OF_SYS)
    found.update((name, importlib.import_module(name)) for name in (*_MODULES, *_MODULES_ALONE))
    return {name: value for name, value in found.items() if not hasattr(builtins, name)}


def add_usual_names(names: Mapping[str, Any]) -> None:
    """Make them known to the programs of this process, and its standard streams by the names that `sys` gives them."""
    streams = {name: getattr(sys, name) for name in ("stdin", "stdout", "stderr")}
    vars(builtins).update({**names, **streams})
