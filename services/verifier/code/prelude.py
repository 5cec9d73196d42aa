"""Names that a program may use without importing them, as the judges of APPS, LiveCodeBench and LeetCode allow.

They are further built-in functions of the template, and so of each program: found last, so a name that the program
binds is its own. Tests run without them, or a name that a program ought to define would be there already.
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


class ListNode:
    """Of a linked list, as LeetCode defines it above its tasks."""

    def __init__(self, val: Any = 0, next: "ListNode | None" = None) -> None:
        self.val = val
        self.next = next


class TreeNode:
    """Of a binary tree, as LeetCode defines it above its tasks."""

    def __init__(self, val: Any = 0, left: "TreeNode | None" = None, right: "TreeNode | None" = None) -> None:
        self.val = val
        self.left = left
        self.right = right


PYTHONS_OWN: Mapping[str, Any] = dict(vars(builtins))
"""The built-in functions of Python itself."""
_STREAMS = ("stdin", "stdout", "stderr")


def add_usual_names() -> None:
    """Make them known in this process, and so in its forks, to which they cost nothing more."""
    found: dict[str, Any] = {"ListNode": ListNode, "TreeNode": TreeNode}
    for name in _MODULES:
        module = importlib.import_module(name)
        public = getattr(module, "__all__", None) or [one for one in vars(module) if not one.startswith("_")]
        found.update((one, getattr(module, one)) for one in public)
    found.update((name, getattr(sys, name)) for name in (*_OF_SYS, *_STREAMS))
    found.update((name, importlib.import_module(name)) for name in (*_MODULES, *_MODULES_ALONE))
    vars(builtins).update((name, value) for name, value in found.items() if name not in PYTHONS_OWN)


def name_streams() -> None:
    """Let the names of the standard streams be those that `sys` has now."""
    vars(builtins).update((name, getattr(sys, name)) for name in _STREAMS)
