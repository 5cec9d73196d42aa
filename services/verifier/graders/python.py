"""`python:module:function`: a grader of the user's own."""

import traceback
from collections.abc import Mapping
from importlib import import_module
from typing import Any, SupportsFloat

from dapo.spec.tree.graders import PythonGrader
from services.verifier.graders.verdict import Grader, GraderSetupError, Verdict, scored, wrong

_NO_SCORE = "not a number in [0, 1]"


def load_function(options: PythonGrader) -> Grader:
    """Raises GraderSetupError where there is no such function; what else the module raises passes through."""
    module, _, name = options.function.partition(":")
    try:
        function: Any = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise GraderSetupError(
            f"{options.function!r} cannot be imported: {error}. Correct the name, or install the module where the "
            "verifiers run (a folder in PYTHONPATH will do)"
        ) from error
    if not callable(function):
        raise GraderSetupError(f"{options.function!r} is no function but {type(function).__name__}. Name a function")

    def grade(text: str, gold: str) -> Verdict:
        try:
            found = function(text, gold)
        except Exception as error:  # noqa: BLE001 - whatever the user's function raises is its crash
            traceback.print_exc()
            return wrong("crash", traceback.format_exception_only(error)[-1].strip().rpartition("\n")[2])
        return _checked(found) if isinstance(found, Verdict) else _read(found, options.threshold)

    return Grader(grade)


def _read(found: Any, threshold: float) -> Verdict:
    """Of a bool or a number, which must lie in [0, 1] as every score."""
    score = _score(found)
    return wrong("bad_reply", f"score {found!r:.80}, {_NO_SCORE}") if score is None else scored(score, threshold)


def _checked(found: Verdict) -> Verdict:
    """The same, as plain data."""
    score = _score(found.score)
    if score is None:
        return wrong("bad_reply", f"score {found.score!r:.80}, {_NO_SCORE}")
    if not isinstance(found.correct, bool):
        return wrong("bad_reply", f"correct {found.correct!r:.80}, not a bool")
    if not isinstance(found.reason, str) or not isinstance(found.extracted, str):
        return wrong("bad_reply", f"reason {found.reason!r:.40} or extracted {found.extracted!r:.40} is no text")
    parts = _parts(found.parts)
    if parts is None:
        return wrong("bad_reply", f"parts {found.parts!r:.80}, not scores in [0, 1] by name")
    return found._replace(score=score, parts=parts, unclosed_thinking=False)


def _parts(found: Any) -> dict[str, float] | None:
    if not isinstance(found, Mapping):
        return None
    scores = ((name, _score(part)) for name, part in found.items() if isinstance(name, str))
    kept = {name: score for name, score in scores if score is not None}
    return kept if len(kept) == len(found) else None


def _score(found: Any) -> float | None:
    """None where it is no number in [0, 1]; text is none, also where it spells one."""
    if not isinstance(found, SupportsFloat) or isinstance(found, (str, bytes)):
        return None
    try:
        score = float(found)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # e.g. an array of several numbers
        return None
    return score if 0 <= score <= 1 else None
