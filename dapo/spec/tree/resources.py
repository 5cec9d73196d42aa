"""How many processes of each kind, and what each may use."""

from typing import Annotated, Literal

from pydantic import Field

from dapo.spec.tree.base import Section

Device = Literal["auto", "cpu", "cuda"]
RedisUrl = Annotated[str, Field(pattern=r"^(redis|rediss|unix)://.")]

ENGINE_RESERVE_TOKENS = 16
"""SGLang keeps some tokens of its KV pool back when it admits a request (seven, in 0.5.21)."""


class AutoscaleSpec(Section):
    """The run changes `replicas` itself, so that generators keep up with the learner and no more: more where the keep
    rate falls or responses get longer, fewer where generators are idle ([sizing.md](sizing.md)). Nobody else changes it
    then."""

    max: int | None = Field(default=None, ge=1)
    """Most generators; none: no autoscaling."""
    min: int = Field(default=1, ge=1)
    """Fewest generators."""
    window_steps: int = Field(default=8, ge=3)
    """Steps that are measured before a change, all of them after the change before it. Their quartiles count, so the
    more they scatter the less is changed."""


class GeneratorResources(Section):
    replicas: int = Field(default=1, ge=1)
    """Generator processes, each with an SGLang server of its own; with `autoscale` those that the run starts with."""
    max_replicas: int | None = Field(default=None, ge=1)
    """With the launcher `attached`: free agents join as generators up to this number, and leave the run with their
    machines, down to one ([agents.md](agents.md)); none: as many as `replicas` and no more."""
    autoscale: AutoscaleSpec = AutoscaleSpec()
    device: Device = "auto"
    """auto: CUDA where present."""
    tensor_parallel: int = Field(default=1, ge=1)
    """GPUs of one SGLang server."""
    max_running_requests: int = Field(default=1024, ge=1)
    """Responses one generator keeps in flight."""
    max_total_tokens: int | None = Field(default=None, gt=0)
    """SGLang's KV pool in tokens; none: as much as free memory allows on a GPU; on CPU room for all responses in
    flight at their longest, within an eighth of memory for all replicas together."""
    prefix_cache: bool | None = None
    """Keep the KV cache of prompts for other prompts that begin alike; none: on a GPU only.

    On a CPU its bookkeeping costs more than it saves until prompts are some 500 tokens long."""
    stream_interval: int = Field(default=16, ge=1)
    """Tokens between two streamed events of a response."""
    start_deadline_s: float = Field(default=600.0, gt=0)
    """SGLang must answer as healthy within this time."""
    request_silence_s: float = Field(default=300.0, gt=0)
    """A response of which nothing is heard for so long, while SGLang has room for all its requests and is not being
    updated, was lost there and is generated again.

    Must be longer than SGLang takes for `stream_interval` tokens, and to read the longest prompt with its response: one
    that was cut off goes on from the tokens that it has."""


class LearnerResources(Section):
    ranks: int = Field(default=1, ge=1)
    """Data-parallel learner processes."""
    device: Device = "auto"
    """auto: CUDA where present."""


class VerifierResources(Section):
    replicas: int = Field(default=1, ge=1)
    """Verifier processes."""


class RedisResources(Section):
    url: RedisUrl | None = None
    """Redis or Valkey ≥ 7, `redis://host:port`; none: REDIS_URL, else an embedded Valkey.

    A password belongs into REDIS_URL, which no file of the run records."""
    payload_url: RedisUrl | None = None
    """Another server for payloads; none keeps them beside the streams."""
    memory_mib: int = Field(default=32768, ge=16)
    """Memory budget for the run's own payloads. A spec whose payloads cannot fit is refused; above 85 % no prompts are
    issued while a batch is in training, and otherwise those for one batch.

    An embedded Valkey gets a quarter and 64 MiB more, for the streams and the ledger; give your own server as much."""
    outage_s: float = Field(default=120.0, ge=0)
    """A server that does not answer is waited for so long, by all of the run's processes; then the run fails. At most
    540: requests are repeated, and the server knows for 600 s which it has carried out. An embedded Valkey that does
    not answer for a third of it, and 5 s at least, is killed and started again with its data."""


class RestartSpec(Section):
    """What becomes of a process of the run that ends, or falls silent, though it has more to do.

    It is started again: a generator or a verifier alone, the learner's ranks together. Until the run serves its first
    weights, one that leaves by itself with an error ends the run at once, and so does a full disk at any time."""

    limit: int = Field(default=5, ge=0)
    """Restarts of the same process (of the learner's ranks together) within `window_s`. The next end fails the run, or,
    of a generator or verifier beside others that run, waits for `longest_pause_s`; 0 always fails it. A start that
    the machine refuses counts, and is tried again after `longest_pause_s`."""
    window_s: float = Field(default=600.0, gt=0)
    """The time over which `limit` counts."""
    pause_s: float = Field(default=1.0, ge=0)
    """Before the second restart in a row; it doubles with each further one. The first comes at once, and so does one
    more than twice `longest_pause_s` after the one before."""
    longest_pause_s: float = Field(default=60.0, ge=0)
    """No pause before a restart is longer."""
    silence_s: float = Field(default=30.0, gt=0)
    """A process that runs but has sent no heartbeat for so long is ended and started again."""
    start_s: float = Field(default=600.0, gt=0)
    """So is one whose first heartbeat has not come so long after its start. On a slow disk the imports before it may
    take minutes; a model is loaded, and SGLang started, after it. Time in which a
    process was never heard does not count in `window_s`."""
    wait_alert_s: float = Field(default=15.0, gt=0)
    """Once nothing has moved for so long (and for five median steps), it is told what the run waits for, and who has
    it. Before the first step has shown how long steps take, the learner has twenty times as long."""
    stall_s: float | None = Field(default=None, gt=0)
    """Once nothing has moved for so long (and for five median steps), whoever holds the run up is ended and started
    again, three times for one step at most; then a group that is held up is failed, again three times; then the run.

    Must be longer than the longest step. A response of which tokens come is no standstill, however long it gets, nor is
    a checkpoint whose files grow, or a learner that reads its model. None: 3600 s until five steps are
    trained, and then twenty median steps, but no more than that and no less than 600 s and the shorter deadlines:
    `wait_alert_s`, `request_silence_s`, `start_deadline_s`, and the half hour and its requests
    for which a `remote` or `judge` grader that is out of reach is asked again."""


class ResourcesSpec(Section):
    generator: GeneratorResources = GeneratorResources()
    learner: LearnerResources = LearnerResources()
    verifier: VerifierResources = VerifierResources()
    redis: RedisResources = RedisResources()
    restarts: RestartSpec = RestartSpec()
