"""`python:module:function`: a grader of the user's own."""

from importlib import import_module
from typing import Any

from dapo.spec.graders import PythonGrader
from services.verifier.graders.verdict import Grade, Unbuildable, Verdict, scored, wrong


def load_function(options: PythonGrader) -> Grade:
    """Raises Unbuildable where there is no such function; what else the module raises passes through."""
    module, _, name = options.function.partition(":")
    try:
        function: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise Unbuildable(
            f"{options.function!r} cannot be imported: {error}. Correct the name, or install the module where the "
            "verifiers run (a folder in PYTHONPATH will do)"
        ) from error
    if not callable(function):
        raise Unbuildable(f"{options.function!r} is no function but {type(function).__name__}. Name a function")

    def grade(text: str, gold: str) -> Verdict:
        found = function(text, gold)
        return found if isinstance(found, Verdict) else _read(found, options.threshold)

    return grade


def _read(found: Any, threshold: float) -> Verdict:
    """Of a bool or a number, which must lie in [0, 1] as every score."""
    score = float(found)
    return scored(score, threshold) if 0 <= score <= 1 else wrong("bad_reply", f"score {score}")
