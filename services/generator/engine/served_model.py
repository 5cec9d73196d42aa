"""What of a model can be told before SGLang starts: whether it would be served rightly."""

from transformers import AutoConfig, PretrainedConfig

from dapo.spec import RunSpec

IGNORED_WINDOWS = ("mistral", "phi3", "qwen2", "qwen3")
"""Architectures whose SGLang code attends to everything whatever window their configuration names."""


class UnservableModel(Exception):
    """SGLang would not serve the model, or not as the learner computes it. The message names model.path."""


def read_config(path: str) -> PretrainedConfig:
    """Raises UnservableModel where there is none, or of an architecture that transformers does not know."""
    try:
        return AutoConfig.from_pretrained(path).get_text_config()
    except (OSError, ValueError) as error:
        raise UnservableModel(f"model.path {path} has no usable configuration: {error}") from error


def attention_window(config: PretrainedConfig) -> int | None:
    """Tokens that the narrowest layer looks back on; None where every layer looks back on all."""
    window: int | None = getattr(config, "sliding_window", None)
    layers = getattr(config, "layer_types", None)
    off = not getattr(config, "use_sliding_window", True)
    if window is None or off or (layers is not None and "sliding_attention" not in layers):
        return None
    return window


def check_served(spec: RunSpec, config: PretrainedConfig, device: str) -> None:
    """Raises UnservableModel where sequences outgrow a window that the engine does not apply but the learner does."""
    window = attention_window(config)
    if window is None or window >= spec.longest_sequence:
        return
    if device == "cpu" or config.model_type in IGNORED_WINDOWS:
        raise UnservableModel(
            f"model.path {spec.model.path}: {config.model_type} looks back on {window} tokens (sliding_window) in some "
            f"layers, SGLang would look back on all of the up to {spec.longest_sequence}, and training would drift; "
            f"keep data.max_prompt_tokens + sampling.max_response_tokens within {window}, or use a model without one"
        )
