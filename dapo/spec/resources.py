"""How many processes of each kind, and what each may use."""

from typing import Literal

from pydantic import Field

from dapo.spec.base import Section

Device = Literal["auto", "cpu", "cuda"]


class GeneratorResources(Section):
    replicas: int = Field(1, ge=1)
    """Generator processes, each with an SGLang server of its own."""
    device: Device = "auto"
    """auto: CUDA where present."""
    tensor_parallel: int = Field(1, ge=1)
    """GPUs of one SGLang server."""
    max_running_requests: int = Field(1024, ge=1)
    """Responses one generator keeps in flight."""
    max_total_tokens: int | None = Field(None, gt=0)
    """Size of SGLang's KV pool in tokens; none lets SGLang size it from free memory (GPU only; the CPU default is 65536)."""
    stream_interval: int = Field(16, ge=1)
    """Tokens between two streamed events of a response."""
    start_deadline_s: float = Field(600.0, gt=0)
    """SGLang must answer as healthy within this time."""


class LearnerResources(Section):
    ranks: int = Field(1, ge=1)
    """Data-parallel learner processes."""
    device: Device = "auto"
    """auto: CUDA where present."""


class VerifierResources(Section):
    replicas: int = Field(1, ge=1)
    """Verifier processes."""


class RedisResources(Section):
    url: str | None = None
    """Redis or Valkey ≥ 7; none starts an embedded Valkey (launcher local)."""
    payload_url: str | None = None
    """Another server for payloads; none keeps them beside the streams."""
    memory_mib: int = Field(4096, ge=16)
    """Memory budget for payloads. A spec that cannot fit is refused."""


class ResourcesSpec(Section):
    generator: GeneratorResources = GeneratorResources()
    learner: LearnerResources = LearnerResources()
    verifier: VerifierResources = VerifierResources()
    redis: RedisResources = RedisResources()
