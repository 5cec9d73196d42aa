"""Size of the KV pool on a CPU, in tokens. On GPUs SGLang sizes it by free memory itself."""

from typing import TYPE_CHECKING

from dapo.spec import RunSpec

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_MEMORY_DIVISOR = 8
"""All generators' pools together take 1/8 of the memory, as learner, Redis and page cache need the rest."""
_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}


def token_bytes(config: "PretrainedConfig", dtype: str) -> int:
    """Bytes of one token's keys and values over all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * _ELEMENT_BYTES[dtype])


def pool_tokens(spec: RunSpec, bytes_per_token: int, memory: int) -> int:
    """Tokens for all responses in flight at their longest, within this generator's share of `memory` bytes.

    Never less than one response needs. In a smaller pool than wanted, SGLang retracts responses and resumes them later.
    """
    generator = spec.resources.generator
    wanted = generator.max_running_requests * spec.longest_sequence
    share = memory // _MEMORY_DIVISOR // spec.generator_processes // bytes_per_token
    return max(spec.smallest_pool, min(wanted, share))
