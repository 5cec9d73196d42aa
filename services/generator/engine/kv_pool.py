"""How many tokens' keys and values a CPU holds: SGLang itself sizes its pool by free memory on GPUs only."""

import os
from pathlib import Path

from transformers import PretrainedConfig

from dapo.spec import RunSpec

MEMORY_SHARE = 8
"""All generators' pools take one part in so many of the memory: learner, Redis and page cache live there too."""
_ELEMENT_BYTES = {"float32": 4, "bfloat16": 2}
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def token_bytes(config: PretrainedConfig, dtype: str) -> int:
    """Bytes of one token's keys and values over all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * width * _ELEMENT_BYTES[dtype])


def memory_bytes() -> int:
    """Of the machine, or of this container where that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        if path.is_file() and (text := path.read_text().strip()).isdigit():
            found.append(int(text))
    return min(found)


def pool_tokens(spec: RunSpec, bytes_per_token: int, memory: int) -> int:
    """Room for all responses in flight at their longest, as far as `memory` bytes go, but for one response at least.

    Where it is less than all, SGLang retracts responses and generates them later.
    """
    generator = spec.resources.generator
    wanted = generator.max_running_requests * spec.longest_sequence
    share = memory // MEMORY_SHARE // spec.generator_processes // bytes_per_token
    return max(spec.smallest_pool, min(wanted, share))
