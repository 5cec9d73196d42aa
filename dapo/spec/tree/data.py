"""What is learned from and how it is sampled."""

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, StringConstraints, model_validator

from dapo.spec.tree.base import Section

SourceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
StopString = Annotated[str, StringConstraints(min_length=1)]


class ModelSpec(Section):
    path: str = Field(min_length=1)
    """Directory in Hugging Face format, or a hub name where a hub can be reached."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format of the forward pass and of the served weights. bfloat16 keeps fp32 master weights; for GPUs."""
    head_dtype: Literal["auto", "float32"] = "auto"
    """Number format in which the learner computes logits; auto is `dtype`. float32 rounds no logit of a bfloat16 model,
    for more time and one float32 copy of the output embedding. The sampler's logits stay as they are."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""


class RowsSpec(Section):
    """Where rows are read from and how a row becomes a prompt with a gold answer."""

    path: str | None = Field(default=None, min_length=1)
    """A .jsonl or .parquet file, a folder of such files, a folder written by `save_to_disk` of the library `datasets`,
    or a hub name such as `openai/gsm8k`. Give this or `sources`."""
    subset: str | None = Field(default=None, min_length=1)
    """Configuration of a hub dataset, or a folder within `path`."""
    split: str = Field(default="train", min_length=1)
    """Split of a folder or a hub dataset. A single file is read whole."""
    prompt_field: str | None = None
    """Field of the prompt: a string, or a list of {role, content} messages (or JSON text of one). Dots reach into
    objects. none: detected."""
    gold_field: str | None = None
    """Field of the gold answer, e.g. `reward_model.ground_truth` for verl's schema. none: detected."""
    gold_after: str | None = Field(default=None, min_length=1)
    """Take as gold answer only what follows the last occurrence of this text, e.g. `####` in GSM8K's own files."""
    grader_field: str | None = Field(default=None, min_length=1)
    """Field that names the row's grader; a row without it takes its source's."""
    chat: bool = False
    """Send a string prompt as the user's message through the model's chat template."""
    chat_template_kwargs: dict[str, JsonValue] = Field(default={})
    """Further arguments of the model's chat template, e.g. {enable_thinking: false} for Qwen3."""
    system_prompt: str | None = Field(default=None, min_length=1)
    """System message before the row's own messages, for rows that bring none. A string prompt needs `chat`."""
    prompt_template: str = "{prompt}"
    """What a string prompt, or the last message of a list (a started turn of the assistant aside), is put into; must
    hold `{prompt}`."""
    ignore_media: bool = False
    """Use rows with images, video or audio for their text alone. Else they are malformed."""
    limit_rows: int | None = Field(default=None, gt=0)
    """Use only the first rows."""
    malformed_limit: int | None = Field(default=None, ge=0)
    """Malformed rows that are set aside; with more of them the source is refused. none: 100, or 1 % if that is more."""


class SourceSpec(RowsSpec):
    """One of several sources of rows."""

    path: str = Field(min_length=1)
    """As `data.path`."""
    weight: float = Field(default=1.0, gt=0)
    """How often an epoch holds each row: 2 twice, 0.5 half of the rows, the next epoch the other half."""
    grader: str | None = Field(default=None, min_length=1)
    """Name of the grader of this source's rows; none takes `reward.grader`."""


class DataSpec(RowsSpec):
    sources: dict[SourceName, SourceSpec] = Field(default={})
    """Several sources by name, instead of `path`. A field of `data` holds for each source that does not set it."""
    deduplicate: bool = False
    """Use only the first row of each prompt (white space aside), over all sources."""
    held_out_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of the prompts kept from training, for evaluation. A hash of the prompt chooses them, so that the choice
    stays when rows are added or moved."""
    max_prompt_tokens: int = Field(default=2048, gt=0)
    """A longer prompt fails its group with the reason `prompt_too_long`."""
    shuffle: bool = True
    """Shuffle the rows anew each epoch, from the run's seed."""

    @property
    def named_sources(self) -> dict[str, SourceSpec]:
        """The sources by name; a single `path` is called `data`."""
        if self.path is None:
            return self.sources
        rows = {name: getattr(self, name) for name in RowsSpec.model_fields}
        return {"data": SourceSpec(**rows), **self.sources}

    @model_validator(mode="before")
    @classmethod
    def _sources_inherit(cls, value: Any) -> Any:
        sources = value.get("sources") if isinstance(value, dict) else None
        if not isinstance(sources, dict):
            return value
        shared = {name: value[name] for name in RowsSpec.model_fields if name != "path" and name in value}
        merged = {name: shared | source if isinstance(source, dict) else source for name, source in sources.items()}
        return {**value, "sources": merged}


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
    stop: list[StopString] = Field(default=[], max_length=32)
    """Strings that end a response, e.g. ["</answer>"], in evaluations too. The token that completes one is the last
    that is trained on; what graders read ends with the string itself. Such a response is not truncated."""
    skip_special_tokens: bool = False
    """Leave every special token out of the text that graders read; else only those that end a response or pad it."""

    @property
    def budgeted_response_tokens(self) -> int:
        return self.expected_response_tokens or self.max_response_tokens
