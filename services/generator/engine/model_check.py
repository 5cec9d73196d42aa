"""Checks before SGLang starts that it would compute the model as the learner does."""

from typing import TYPE_CHECKING

from dapo.spec import RunSpec
from dapo.spec.checks.model import context
from dapo.spec.context import context_tokens

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_WINDOW_IGNORED = ("mistral", "phi3", "qwen2", "qwen3")
"""Architectures whose SGLang code ignores the sliding window of the configuration."""


class UnsupportedModel(Exception):
    """SGLang cannot serve the model, or would compute it unlike the learner. The message names model.path."""


def read_config(path: str) -> "PretrainedConfig":
    """The text model's configuration. Raises UnsupportedModel if it is missing or its architecture unknown."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path).get_text_config()
    except (OSError, ValueError) as error:
        raise UnsupportedModel(f"model.path {path} has no usable configuration: {error}") from error


def attention_window(config: "PretrainedConfig") -> int | None:
    """Size of the sliding window in tokens; None if every layer has full attention."""
    window: int | None = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    off = not getattr(config, "use_sliding_window", True)
    if window is None or off or (layers is not None and "sliding_attention" not in layers):
        return None
    return window


def check_served(spec: RunSpec, config: "PretrainedConfig", device: str) -> None:
    """Raises UnsupportedModel if sequences may exceed the context, or a sliding window that the learner applies and
    SGLang does not."""
    for problem in context(spec, context_tokens(config.to_dict())):
        raise UnsupportedModel(str(problem))
    window = attention_window(config)
    if window is None or window >= spec.longest_sequence:
        return
    if device == "cpu" or config.model_type in _WINDOW_IGNORED:
        raise UnsupportedModel(
            f"model.path {spec.model.path}: {config.model_type} looks back on {window} tokens (sliding_window) in some "
            f"layers, SGLang would look back on all of the up to {spec.longest_sequence}, and training would drift; "
            f"keep data.max_prompt_tokens + sampling.max_response_tokens within {window}, or use a model without one"
        )
