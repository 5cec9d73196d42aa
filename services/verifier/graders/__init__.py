"""The local graders, which run in killable processes: one module each, built from their options by `build_grader`.

`remote` and `judge` are in services.verifier.remote, `weighted` is in services.verifier.grading.dispatch. `verdict`,
`reading`, `math_text`, `golds` and `equivalence` are shared parts.

No grader calls an empty answer correct, whatever the gold answer is.
"""

from collections.abc import Callable
from typing import Any

from dapo.spec.tree import graders as specs
from services.verifier.graders.arithmetic import make_arithmetic
from services.verifier.graders.code import make_code
from services.verifier.graders.equivalence import class_of_text
from services.verifier.graders.golds import compares, text_problem
from services.verifier.graders.json_schema import make_json_schema
from services.verifier.graders.math_dapo import make_math_dapo
from services.verifier.graders.math_verify import make_math_verify
from services.verifier.graders.python import load_function
from services.verifier.graders.reading.thinking import without_thinking
from services.verifier.graders.reasoning_gym import make_reasoning_gym
from services.verifier.graders.regex import make_regex
from services.verifier.graders.verdict import (
    MAX_EXTRACTED,
    GradeFunction,
    Grader,
    GraderSetupError,
    Verdict,
    compare_texts,
    right,
    scored,
    utf8_safe,
    wrong,
)

__all__ = [
    "MAX_EXTRACTED",
    "GradeFunction",
    "Grader",
    "GraderSetupError",
    "Verdict",
    "build_grader",
    "is_local",
    "right",
    "scored",
    "text_for_grader",
    "utf8_safe",
    "wrong",
]


def grade_exact(text: str, gold: str) -> Verdict:
    """`exact`: the whole response equals the gold answer, white space at both ends aside."""
    return compare_texts(text.strip(), gold.strip())


_BUILDERS: dict[type[specs.AnyGrader], Callable[[Any], Grader]] = {
    specs.ExactGrader: lambda options: compares(grade_exact, text_problem, lambda text: class_of_text(text.strip())),
    specs.MathDapoGrader: make_math_dapo,
    specs.RegexGrader: make_regex,
    specs.MathVerifyGrader: make_math_verify,
    specs.ArithmeticGrader: make_arithmetic,
    specs.CodeGrader: make_code,
    specs.JsonSchemaGrader: make_json_schema,
    specs.ReasoningGymGrader: make_reasoning_gym,
    specs.PythonGrader: load_function,
}


def is_local(options: specs.AnyGrader) -> bool:
    """Whether a grader of these options runs in a grading process."""
    return type(options) in _BUILDERS


def build_grader(options: specs.AnyGrader) -> Grader:
    """A local grader, with its imports done. Raises GraderSetupError."""
    try:
        return _BUILDERS[type(options)](options)
    except ImportError as error:
        extra = "reasoning-gym" if isinstance(options, specs.ReasoningGymGrader) else "graders"
        raise GraderSetupError(f"a library is missing ({error}): pip install '.[{extra}]'") from error


def text_for_grader(options: specs.AnyGrader, text: str, begun: str = "") -> str | Verdict:
    """The part of the response that the grader reads, which is none of its thinking. `begun` is what the prompt has
    written of the response already.

    The verdict instead, where nothing is read: the response ends within its thinking, or is too long.
    """
    said = text if options.thinking_tags is None else without_thinking(text, options.thinking_tags, begun)
    if said is None:
        return wrong("no_answer")._replace(unclosed_thinking=True)
    if options.READS_TAIL:
        return said[-options.max_characters :]
    return said if len(said) <= options.max_characters else wrong("too_long")
