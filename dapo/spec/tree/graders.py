"""Graders: the rules that say whether a response is correct, with their options, and how a name finds its rule.

A name stands in `reward.grader`, in a source of the data or in a row. It is one of `reward.graders`, else the type of
a grader that needs no options, else `python:module:function`.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from dapo.spec.tree.base import Section

Share = Annotated[float, Field(ge=0, le=1)]
ThinkingTag = Annotated[str, Field(min_length=1)]
LITERAL_CHARACTERS = 300
"""What DAPO's rule reads of a response, from its end (arXiv 2503.14476)."""
PYTHON_PREFIX = "python:"
FUNCTION = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
SERVICE_PATIENCE_S = 1800.0
"""For so long a remote grader that is out of reach is tried again."""
SERVICE_PAUSE_S = 15.0
"""Between two such tries; its circuit breaker is open for as long."""
LONGEST_RETRY_PAUSE_S = 30.0
"""Between a request that failed and its next try."""


class _Grader(Section):
    READS_TAIL: ClassVar[bool] = False
    """Of a longer response the grader gets the end; otherwise a longer one is wrong with the reason `too_long`."""

    MAX_GOLD: ClassVar[int] = 100_000
    """Characters of a gold answer; a longer one is a failure of the grading, `bad_gold`."""

    EXTRACTS_ANSWER: ClassVar[bool] = False
    """What it extracts is an answer in which responses may agree, not a comment; maj@k counts such answers."""
    max_characters: int = Field(default=100_000, gt=0)
    """What is read of a response at most."""
    thinking_tags: tuple[ThinkingTag, ThinkingTag] | None = ("<think>", "</think>")
    """Opening and closing tag of what is not read; a block left open means no answer. null: all is read."""


class ExactGrader(_Grader):
    """The whole response equals the gold answer, white space at both ends aside."""

    EXTRACTS_ANSWER: ClassVar[bool] = True
    type: Literal["exact"] = "exact"


class RegexGrader(_Grader):
    """The last match of a pattern, or its first group where it has one, equals the gold answer."""

    EXTRACTS_ANSWER: ClassVar[bool] = True
    type: Literal["regex"] = "regex"
    pattern: str = Field(min_length=1)
    """Regular expression of Python, e.g. `#### (.*)`."""
    compare: bool = True
    """false: a response in which the pattern is found is correct, whatever the gold answer (a rule for the form)."""


class MathDapoGrader(_Grader):
    """DAPO's answer rule: the last "Answer: …", compared by Minerva's normal form, harmless typography aside."""

    READS_TAIL: ClassVar[bool] = True
    EXTRACTS_ANSWER: ClassVar[bool] = True
    type: Literal["math_dapo"] = "math_dapo"
    max_characters: int = Field(default=10_000, gt=0)
    """What is read of a response at most, from its end; 300 where `literal` is set."""
    literal: bool = False
    """The paper's exact rule: of the last 300 characters the last "Answer: …", its typography included."""

    @model_validator(mode="before")
    @classmethod
    def _literal_reads_as_much_as_the_paper(cls, value: Any) -> Any:
        literal = isinstance(value, dict) and value.get("literal")
        return {"max_characters": LITERAL_CHARACTERS, **value} if literal else value


class MathVerifyGrader(_Grader):
    """Mathematical equivalence by math-verify of the answer stated last: a box, "Answer: …", "#### …" and the like."""

    READS_TAIL: ClassVar[bool] = True
    EXTRACTS_ANSWER: ClassVar[bool] = True
    type: Literal["math_verify"] = "math_verify"
    max_characters: int = Field(default=10_000, gt=0)
    """What is read of a response at most, from its end."""
    digits: int = Field(default=6, ge=0, le=30)
    """Decimal digits to which numbers are compared."""


class ArithmeticGrader(_Grader):
    """An expression of given numbers that reaches a target (countdown); gold: {"numbers": […], "target": …}."""

    READS_TAIL: ClassVar[bool] = True
    EXTRACTS_ANSWER: ClassVar[bool] = True
    type: Literal["arithmetic"] = "arithmetic"
    max_characters: int = Field(default=10_000, gt=0)
    """What is read of a response at most, from its end."""
    use_all: bool = True
    """Every number exactly once; false: at most once."""


class CodeGrader(_Grader):
    """The last block of Python, or the one that defines what the tests call, passes the tests in the gold answer."""

    MAX_GOLD: ClassVar[int] = 16_000_000
    type: Literal["code"] = "code"
    timeout_s: float = Field(default=5.0, gt=0)
    """Wall and processor time of all tests together."""
    memory_mib: int = Field(default=512, gt=0)
    """Address space of the program, beyond the interpreter's own."""
    output_kib: int = Field(default=64, gt=0)
    """What the program may print in a test, beside four times the size of the output that the test expects."""
    tolerance: float = Field(default=1e-6, ge=0, lt=1)
    """Relative or absolute error of a floating-point number that is printed or returned; 0: numbers must be equal."""
    modules: list[Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*$")]] = Field(default=[])
    """Modules that programs may import besides the standard library's usual ones, e.g. numpy."""
    threshold: Share = 1.0
    """Share of the tests that must pass for the response to be correct; the share itself is the score."""


class JsonSchemaGrader(_Grader):
    """The response's JSON conforms to a schema: the gold answer, or `schema_path` for all rows."""

    type: Literal["json_schema"] = "json_schema"
    schema_path: str | None = None
    """File of a JSON schema; none: the gold answer is the schema."""


class ReasoningGymGrader(_Grader):
    """A task of reasoning-gym; gold: what `dapo data reasoning-gym` wrote."""

    READS_TAIL: ClassVar[bool] = True
    EXTRACTS_ANSWER: ClassVar[bool] = True
    type: Literal["reasoning_gym"] = "reasoning_gym"
    max_characters: int = Field(default=10_000, gt=0)
    """What is read of a response at most, from its end."""
    threshold: Share = 1.0
    """Score from which a response is correct."""


class HttpGrader(_Grader):
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_]\w*$")
    """Environment variable of the verifiers whose value is sent as bearer token."""
    timeout_s: float = Field(default=30.0, gt=0)
    """Of one HTTP request."""
    retries: int = Field(default=2, ge=0)
    """Further tries after a failed request, with growing pauses."""
    concurrency: int = Field(default=16, gt=0)
    """Requests in flight of one verifier."""
    threshold: Share = 0.5
    """Score from which a response is correct."""

    @property
    def patience_s(self) -> float:
        """So long may pass before the group of a response fails, where the service is out of reach: the first request
        with all its tries, the time for which it is repeated, the last repetition in it, and one more."""
        request_s = (1 + self.retries) * self.timeout_s + self.retries * LONGEST_RETRY_PAUSE_S
        return SERVICE_PATIENCE_S + SERVICE_PAUSE_S + 3 * request_s


class RemoteGrader(HttpGrader):
    """A service of yours, e.g. a reward model or a proof checker, that scores batches over HTTP."""

    type: Literal["remote"] = "remote"
    url: str = Field(pattern=r"^https?://.")
    """Where batches are posted to; docs/graders.md has the format."""
    batch_size: int = Field(default=32, gt=0)
    """Responses of one request."""


class JudgeGrader(HttpGrader):
    """A language model behind an OpenAI-compatible endpoint, which judges by a rubric."""

    type: Literal["judge"] = "judge"
    url: str = Field(pattern=r"^https?://.")
    """Base of the API, e.g. http://judge:8000/v1, to which /chat/completions is added."""
    model: str = Field(min_length=1)
    """Name of the model at the endpoint."""
    rubric: str = Field(min_length=1)
    """What the judge is asked to look at."""
    max_tokens: int = Field(default=1024, gt=0)
    """Of the judge's answer."""


class PythonGrader(_Grader):
    """A function of yours, `function(response, gold)`, that returns a bool or a score; runs in a grading process."""

    type: Literal["python"] = "python"
    function: str = Field(pattern=FUNCTION)
    """`module:function`, importable where the verifiers run."""
    threshold: Share = 1.0
    """Score from which a response is correct."""


class WeightedGrader(_Grader):
    """A weighted mean of other graders' scores."""

    type: Literal["weighted"] = "weighted"
    parts: dict[str, Annotated[float, Field(gt=0)]] = Field(min_length=1)
    """Weight of each grader, by name."""
    threshold: Share = 1.0
    """Weighted mean from which a response is correct."""


AnyGrader = (
    ExactGrader
    | RegexGrader
    | MathDapoGrader
    | MathVerifyGrader
    | ArithmeticGrader
    | CodeGrader
    | JsonSchemaGrader
    | ReasoningGymGrader
    | RemoteGrader
    | JudgeGrader
    | PythonGrader
    | WeightedGrader
)
GraderSpec = Annotated[AnyGrader, Field(discriminator="type")]

BUILT_IN: Mapping[str, AnyGrader] = {
    grader.type: grader
    for grader in (
        ExactGrader(),
        MathDapoGrader(),
        MathVerifyGrader(),
        ArithmeticGrader(),
        CodeGrader(),
        JsonSchemaGrader(),
        ReasoningGymGrader(),
    )
}
"""Graders that need no options, by name."""


class UnknownGrader(ValueError):
    """No grader has that name."""


def find_grader(name: str, named: Mapping[str, AnyGrader]) -> AnyGrader:
    """The grader that `name` means beside `reward.graders` = `named`. Raises UnknownGrader with what there is."""
    if name in named:
        return named[name]
    if name in BUILT_IN:
        return BUILT_IN[name]
    if re.fullmatch(FUNCTION, function := name.removeprefix(PYTHON_PREFIX)) and function != name:
        return PythonGrader(function=function)
    known = ", ".join(sorted({*named, *BUILT_IN}))
    raise UnknownGrader(
        f"no grader is called {name!r}. Take one of {known}, python:module:function, or define it under reward.graders"
    )
