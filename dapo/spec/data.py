"""What is learned from and how it is sampled and graded."""

from typing import Literal

from pydantic import Field

from dapo.spec.base import Section

GraderName = Literal["exact", "math_dapo"]


class ModelSpec(Section):
    path: str = Field(min_length=1)
    """Directory in Hugging Face format, or a hub name where a hub can be reached."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the forward pass and of the served weights. bfloat16 keeps fp32 master weights; for GPUs."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


class DataSpec(Section):
    path: str = Field(min_length=1)
    """A .jsonl or .parquet file of rows with a prompt and a gold answer."""
    prompt_field: str = "prompt"
    """Field of the prompt: a string, or a list of {role, content} messages. Dots reach into objects."""
    gold_field: str = "answer"
    """Field of the gold answer, e.g. `reward_model.ground_truth` for verl's schema."""
    chat: bool = False
    """Send a string prompt as the user's message through the model's chat template."""
    prompt_template: str = "{prompt}"
    """What a string prompt, or the last message of a list, is put into; must hold `{prompt}`."""
    max_prompt_tokens: int = Field(default=2048, gt=0)
    """A longer prompt fails its group with the reason `prompt_too_long`."""
    shuffle: bool = True
    """Shuffle the rows anew each epoch, from the run's seed."""
    limit_rows: int | None = Field(default=None, gt=0)
    """Use only the first rows of the file."""


class SamplingSpec(Section):
    group_size: int = Field(default=16, ge=1)
    """G: responses sampled for each prompt."""
    temperature: float = Field(default=1.0, gt=0)
    """Softmax temperature; the learner's log-probabilities use the same."""
    top_p: float = 1.0
    """Must stay 1 in training: truncated sampling renormalises the log-probabilities and biases the ratio."""
    top_k: int = -1
    """Must stay −1 (off) in training, for the same reason."""
    max_response_tokens: int = Field(default=20480, gt=0)
    """L_max: generation is cut here."""
    expected_response_tokens: int | None = Field(default=None, gt=0)
    """Mean response length to reckon Redis memory with, and nothing else; none takes `max_response_tokens`."""

    @property
    def budgeted_response_tokens(self) -> int:
        return self.expected_response_tokens or self.max_response_tokens


class RewardSpec(Section):
    grader: GraderName = "math_dapo"
    """Rule that says whether a response is correct."""
    correct: float = 1.0
    """Reward of a correct response."""
    incorrect: float = -1.0
    """Reward of any other response."""
    overlong_buffer_tokens: int = Field(default=4096, gt=0)
    """L_cache: the soft punishment falls from 0 to −1 over the last L_cache of `sampling.max_response_tokens`."""
    grader_timeout_s: float = Field(default=2.0, gt=0)
    """A grading that takes longer is killed and counts as wrong with the reason `timeout`."""
