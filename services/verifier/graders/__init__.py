"""Graders by the type of their options. All here run in a killable process; `remote`, `judge` and `weighted` do not.

No grader calls an empty answer correct, whatever the gold answer is.
"""

from collections.abc import Callable
from typing import Any

from dapo.spec.tree import graders as specs
from services.verifier.graders.arithmetic import make_arithmetic
from services.verifier.graders.code import make_code
from services.verifier.graders.json_schema import make_json_schema
from services.verifier.graders.math_verify import make_math_verify
from services.verifier.graders.python import load_function
from services.verifier.graders.reasoning_gym import make_reasoning_gym
from services.verifier.graders.regex import make_regex
from services.verifier.graders.texts import grade_exact, grade_math_dapo
from services.verifier.graders.verdict import (
    MAX_EXTRACTED,
    Grade,
    Unbuildable,
    Verdict,
    encodable,
    right,
    scored,
    wrong,
)

__all__ = [
    "MAX_EXTRACTED",
    "Grade",
    "Unbuildable",
    "Verdict",
    "build",
    "encodable",
    "is_local",
    "read_text",
    "right",
    "scored",
    "wrong",
]

_BUILDERS: dict[type[specs.AnyGrader], Callable[[Any], Grade]] = {
    specs.ExactGrader: lambda options: grade_exact,
    specs.MathDapoGrader: lambda options: grade_math_dapo,
    specs.RegexGrader: make_regex,
    specs.MathVerifyGrader: make_math_verify,
    specs.ArithmeticGrader: make_arithmetic,
    specs.CodeGrader: make_code,
    specs.JsonSchemaGrader: make_json_schema,
    specs.ReasoningGymGrader: make_reasoning_gym,
    specs.PythonGrader: load_function,
}


def is_local(options: specs.AnyGrader) -> bool:
    """Whether it runs in a grading process."""
    return type(options) in _BUILDERS


def build(options: specs.AnyGrader) -> Grade:
    """The function of a local grader. Imports what it needs. Raises Unbuildable."""
    try:
        return _BUILDERS[type(options)](options)
    except ImportError as error:
        extra = "reasoning-gym" if isinstance(options, specs.ReasoningGymGrader) else "graders"
        raise Unbuildable(f"a library is missing ({error}): pip install '.[{extra}]'") from error


def read_text(options: specs.AnyGrader, text: str) -> str | None:
    """What the grader gets of the response; None where it is longer than the grader reads."""
    if options.READS_TAIL:
        return text[-options.max_characters :]
    return text if len(text) <= options.max_characters else None
