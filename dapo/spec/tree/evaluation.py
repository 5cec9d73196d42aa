"""How the policy is evaluated: on which prompts, how often, and how their responses are sampled."""

from typing import Any, Literal

from pydantic import Field, model_validator

from dapo.spec.tree.base import Section
from dapo.spec.tree.data import SourceName, SourceSpec

HELD_OUT = "held-out"
"""Name of the set that `data.held_out_share` makes."""


DAPO_TEMPLATE = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: "
    "$Answer (without quotes) where $Answer is the answer to the problem.\n\n{prompt}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
"""The prompt of the DAPO dataset (arXiv 2503.14476)."""
PROTOCOLS: dict[str, dict[str, Any]] = {
    "aime-2024": {"samples": 32, "grader": "math_dapo", "chat": True, "prompt_template": DAPO_TEMPLATE},
}
"""What a protocol sets: the paper's avg@32 (section 4.1). Its `temperature` 1 and `top_p` 0.7 are the defaults."""


FORM_FIELDS = ("chat", "chat_template_kwargs", "system_prompt", "prompt_template")
"""Fields of `data` that hold for evaluation sets, too."""


def inherit(form: dict[str, Any], one: Any) -> Any:
    """A set as written, with what it does not say itself from its protocol, and else from `form`."""
    protocol = one.get("protocol") if isinstance(one, dict) else None
    set_by_protocol = PROTOCOLS.get(protocol, {}) if isinstance(protocol, str) else {}
    return {**form, **set_by_protocol, **one} if isinstance(one, dict) else one


class EvaluationSet(SourceSpec):
    protocol: Literal["aime-2024"] | None = None
    """aime-2024: the paper's avg@32 on a file of yours with the 30 problems: 32 samples, DAPO's prompt and its grader.
    What the set says itself comes before."""
    samples: int | None = Field(default=None, gt=0)
    """Responses a prompt; none: `evaluation.samples`."""

    @model_validator(mode="before")
    @classmethod
    def _from_protocol(cls, value: Any) -> Any:
        return inherit({}, value)


class EarlyStoppingSpec(Section):
    """A run ends as on its last step, before `training.steps`, once its evaluations say so: it has then succeeded."""

    set: SourceName | None = None
    """The evaluation set that decides (`held-out` is one); none: no early stopping."""
    threshold: float | None = Field(default=None, gt=0, le=1)
    """End once avg@k is at least this."""
    patience: int | None = Field(default=None, ge=1)
    """End after so many evaluations in a row whose avg@k is not above the best before them, that of the base model
    included."""
    min_delta: float = Field(default=0.0, ge=0, lt=1)
    """patience: an evaluation must be better than the best by more than this to count as one."""


class EvaluationSpec(Section):
    sets: dict[SourceName, EvaluationSet] = Field(default={})
    """Prompts to evaluate on, by name; beside them the rows that `data.held_out_share` keeps back, as `held-out`."""
    every_steps: int | None = Field(default=None, gt=0)
    """Evaluate after so many steps, again and again; none: only before the first and after the last step."""
    at_start: bool = True
    """Evaluate the base model."""
    at_end: bool = True
    """Evaluate the last version."""
    samples: int = Field(default=4, gt=0)
    """k: responses a prompt (the paper: 32). Greedy: 1."""
    temperature: float = Field(default=1.0, ge=0)
    """Of the sampling (the paper: 1). 0 is greedy: the likeliest token each time, and one response a prompt."""
    top_p: float = Field(default=0.7, gt=0, le=1)
    """Nucleus of the sampling; training has none (the paper: 0.7). Greedy: 1."""
    max_response_tokens: int | None = Field(default=None, gt=0)
    """Responses are cut here; none: `sampling.max_response_tokens`."""
    dedicated_generator: bool = False
    """Evaluate on one more generator, which takes no prompts for training and keeps its weights while an evaluation
    goes on, so that each evaluation is of exactly one version."""
    exclude_from_training: bool = True
    """Leave rows whose prompt an evaluation set asks, too, out of the training."""
    prompts_in_flight: int | None = Field(default=None, gt=0)
    """Prompts of an evaluation that are generated at a time beside the training; none: a quarter of
    `training.prompts_per_step`. Without training beside them they are limited by the generators alone."""
    early_stopping: EarlyStoppingSpec = EarlyStoppingSpec()

    @model_validator(mode="before")
    @classmethod
    def _greedy_from_temperature(cls, value: Any) -> Any:
        greedy = isinstance(value, dict) and str(value.get("temperature")) in ("0", "0.0")
        return {"samples": 1, "top_p": 1.0, **value} if greedy else value
