"""How many tokens a model's context has, of what its config.json says."""

from collections.abc import Mapping
from typing import Any

CONTEXT_RESERVE_TOKENS = 2
"""SGLang ends a sequence this many tokens before the context is full."""
_KEYS = (
    "max_sequence_length",
    "seq_length",
    "max_seq_len",
    "model_max_length",
    "max_position_embeddings",
    "n_positions",
)
"""Fields that name it, the first that is there counts, as in SGLang; n_positions is GPT-2's name."""
_STRETCHED = ("linear", "dynamic")
"""Kinds of rope scaling whose factor comes on top. The others name the length with their factor in it."""


def context_tokens(config: Mapping[str, Any]) -> int | None:
    """Of a configuration as in config.json, or as transformers has completed it. None where it does not say.

    Of a model of several modalities its text model counts. A sliding window is no bound on the context.
    """
    text = config.get("text_config")
    if not isinstance(text, Mapping):
        text = config
    found = next((text[key] for key in _KEYS if isinstance(text.get(key), int)), None)
    return None if found is None else int(_stretch(text) * found)


def _stretch(config: Mapping[str, Any]) -> float:
    rope = config.get("rope_parameters") or config.get("rope_scaling")
    if not isinstance(rope, Mapping) or "original_max_position_embeddings" in rope:
        return 1.0
    factor = rope.get("factor", 1.0)
    stretched = rope.get("rope_type", rope.get("type")) in _STRETCHED and isinstance(factor, int | float)
    return float(factor) if stretched else 1.0
