"""How many tokens' keys and values a CPU holds: SGLang itself sizes its pool by free memory on GPUs only."""

import os

from transformers import AutoConfig, PretrainedConfig

from dapo.spec import RunSpec

MEMORY_SHARE = 8
"""The pool takes at most one part in so many of the machine's memory: learner, Redis and page cache live there too."""
_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}


def token_bytes(config: PretrainedConfig, dtype: str) -> int:
    """Bytes of one token's keys and values over all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * _ELEMENT_BYTES[dtype])


def pool_tokens(spec: RunSpec, bytes_per_token: int, memory_bytes: int) -> int:
    """Room for all responses in flight at their longest, as far as memory goes, but for one response at least.

    Where it is less than all, SGLang retracts responses and generates them later.
    """
    longest = spec.data.max_prompt_tokens + spec.sampling.max_response_tokens
    wanted = spec.resources.generator.max_running_requests * longest
    return max(longest, min(wanted, memory_bytes // MEMORY_SHARE // bytes_per_token))


def cpu_pool_tokens(spec: RunSpec) -> int:
    """`pool_tokens` of the spec's model on this machine. Raises OSError where the model has no configuration."""
    config = AutoConfig.from_pretrained(spec.model.path).get_text_config()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return pool_tokens(spec, token_bytes(config, spec.model.dtype), memory)
