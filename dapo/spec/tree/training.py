"""How the policy is updated, how far generation may run ahead, and how weights and checkpoints travel."""

from typing import Annotated, Literal

from pydantic import Field

from dapo.spec.tree.base import Section

Beta = Annotated[float, Field(ge=0, lt=1)]
Packing = Literal["auto", "on", "off"]
Share = Annotated[float, Field(ge=0, le=1)]


class OptimizerSpec(Section):
    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate of AdamW."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    """AdamW's moment decays."""
    epsilon: float = Field(default=1e-8, gt=0)
    """AdamW's denominator term."""
    weight_decay: float = Field(default=0.1, ge=0)
    """AdamW's decoupled weight decay; biases and norms are not decayed."""
    warmup_steps: int = Field(default=20, ge=0)
    """Linear warm-up, in rollout steps (train batches), not optimizer updates."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Bound on the global gradient norm."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Course of the learning rate after the warm-up, in rollout steps, down to `final_rate` at `training.steps`."""
    final_rate: Share = 0.0
    """Learning rate at the end of a linear or cosine schedule, as a share of the peak."""


class ValueSpec(Section):
    """The value network of `advantage_estimator: gae`: the model's backbone and one output, trained beside the policy.
    What is not here (betas, decay, clipping, schedule) it takes from `optimizer`."""

    learning_rate: float = Field(default=1e-5, gt=0)
    """Peak learning rate of the value network's AdamW."""
    clip: float | None = Field(default=0.2, gt=0)
    """Bound on how far an update moves a token's value from the one before the step; none switches it off."""
    warmup_steps: int = Field(default=0, ge=0)
    """First steps, in which the value network learns and the policy rests."""


class TrainingSpec(Section):
    steps: int = Field(default=100, ge=0)
    """Train batches until the run ends. 0: no training and no learner, only the evaluation of `model.path`."""
    prompts_per_step: int = Field(default=512, ge=1)
    """B: groups in a train batch."""
    updates_per_step: int = Field(default=16, ge=1)
    """Optimizer updates a train batch is split into (mini-batches); must divide prompts_per_step × group_size."""
    update_epochs: int = Field(default=1, ge=1)
    """Passes over a train batch; each has `updates_per_step` updates of mini-batches that are drawn anew."""
    max_tokens_per_micro_batch: int = Field(default=32768, gt=0)
    """Bound on tokens (prompt + response, padding included) in one forward pass; a longer sequence goes alone."""
    packing: Packing = "auto"
    """on: a micro-batch is one row of sequences end to end. off: padded rows. auto: on where attention skips what lies
    between sequences, i.e. flash attention on CUDA."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage."""
    offload: Literal["none", "optimizer", "parameters"] = "none"
    """What is kept in the host's memory instead of the GPU's: the optimizer's state (from stage 1), or also the
    parameters between their uses (stage 3)."""
    sequence_parallel: int = Field(default=1, ge=1)
    """Learner ranks that share one sequence; more than 1 is refused, and the refusal says what to use instead."""


ALL_LINEAR = "all-linear"
ADAPTER_MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Layers whose adapters SGLang can serve unmerged. It fuses q, k and v, and gate and up; there k and up may lack."""
_FUSED_MODULES = ("qkv_proj", "gate_up_proj")
"""The same, in models that have them fused."""
_ADAPTER_MODELS = frozenset({"llama", "mistral", "phi3", "qwen2", "qwen3"})
"""Kinds of models (`model_type`) all of whose linear layers are among these."""


class LoraSpec(Section):
    """LoRA of the policy. Exports get merged weights; the value network is trained whole."""

    rank: int | None = Field(default=None, ge=1)
    """r: rank of the trained update of each layer; none trains all parameters instead."""
    alpha: float = Field(default=32.0, gt=0)
    """α: the update is scaled by α / r."""
    target_modules: str = Field(default=ALL_LINEAR, min_length=1)
    """Layers with an update: all-linear (all but the embeddings), or names separated by commas, e.g. q_proj,v_proj."""
    serving: Literal["auto", "merged", "adapter"] = "auto"
    """How generators run the update. merged: W + (α / r) · B A in model.dtype, whose rounding may swallow it (metric
    `lora_surviving_share`). adapter: W and the adapter apart, by SGLang's LoRA; only the adapter is sent. auto: adapter
    with model.dtype bfloat16, where the model is a Llama, Mistral, Phi-3, Qwen2 or Qwen3 and SGLang can serve such
    layers, else merged."""

    @property
    def modules(self) -> list[str]:
        """`target_modules` as names."""
        return [name.strip() for name in self.target_modules.split(",")]

    @property
    def unservable(self) -> str | None:
        """Why SGLang cannot serve these layers unmerged, whatever the model; None where it can."""
        names = set(self.modules)
        if names == {ALL_LINEAR}:
            return None
        if others := sorted(names - {*ADAPTER_MODULES, *_FUSED_MODULES}):
            return f"SGLang serves adapters of {', '.join(ADAPTER_MODULES)} alone, not of {', '.join(others)}"
        if names & {"q_proj", "k_proj", "v_proj"} and not names >= {"q_proj", "v_proj"}:
            return "SGLang fuses q_proj, k_proj and v_proj, and serves adapters of both q_proj and v_proj or of none"
        if "up_proj" in names and "gate_proj" not in names:
            return "SGLang fuses gate_proj and up_proj, and serves no adapter of up_proj alone"
        return None

    def may_serve_adapter(self, model_type: str) -> bool:
        """Whether SGLang is known to serve these layers of such a model unmerged."""
        return self.unservable is None and model_type in _ADAPTER_MODELS


class AsynchronySpec(Section):
    max_staleness: int = Field(default=1, ge=0)
    """S: version trained on minus version issued never exceeds it; 0 is the synchronous system."""
    keep_rate_confidence: float = Field(default=0.9, gt=0.5, lt=1)
    """Confidence of the upper bound on the keep rate that paces admission."""
    low_keep_rate_alert: float = Field(default=0.05, ge=0, lt=1)
    """An alert is raised while the measured keep rate lies below; the run goes on."""
    expected_keep_rate: float = Field(default=0.5, gt=0, le=1)
    """Share of groups that dynamic sampling is expected to keep, for the memory check alone: pacing measures its own.

    Groups on their way are counted as if all their responses were there, so 0.5 also covers a rate of 0.25 at which
    half of them are."""


class WeightSyncSpec(Section):
    backend: Literal["auto", "gloo", "nccl"] = "auto"
    """auto: nccl where learner ranks and generators have GPUs of their own, else gloo."""
    bucket_mib: int = Field(default=64, ge=1)
    """Parameters are broadcast in flattened buckets of about this size."""
    sender_share: float = Field(default=1.0, gt=0, le=1)
    """Of the learner ranks on each machine, how many send weights, rounded up. Each generator gets them from one
    rank; 1 lets all send, less spares memory where those of a machine share one network card."""
    join_deadline_s: float = Field(default=60.0, gt=0)
    """Time to join a weight group. A generator that takes longer replaces its engine, and is left out meanwhile."""
    update_deadline_s: float = Field(default=120.0, gt=0)
    """The same for a weight update: to be ready for it, and from then to its end, waits for the learner not counted."""
    lag_deadline_s: float = Field(default=10.0, gt=0)
    """A generator that gets no further for so long, while another one of the same sender took three buckets more or
    all of them, is given up as one that missed its deadline."""
    no_generator_s: float = Field(default=1200.0, gt=0)
    """The run fails once no generator could be given the weights for so long."""
    in_flight: Literal["continue", "abort", "drain"] = "continue"
    """What becomes of responses in flight when new weights come. continue: they go on with them, their KV cache made
    anew. abort: their requests are ended, and made again with the tokens that they have once the weights are there.
    drain: a generator takes no new prompts and finishes what it has, for `drain_s` at most, before it takes them.

    Under continue and abort a response has tokens of several versions, each with the log-probability under its own."""
    drain_s: float = Field(default=300.0, gt=0)
    """With in_flight: drain; what is not finished by then goes on with the new weights. A generator may take so much
    longer until it is ready for an update, and others wait for it."""

    @property
    def ready_s(self) -> float:
        """Seconds from the command of an update until the generator must be ready for it."""
        return self.update_deadline_s + (self.drain_s if self.in_flight == "drain" else 0.0)


class CheckpointSpec(Section):
    every_steps: int = Field(default=5, ge=1)
    """Steps between checkpoints; payloads stay in Redis until a checkpoint covers them and another follows it."""
    keep_last: int = Field(default=2, ge=1)
    """Older checkpoints are deleted. From 2 on a damaged newest one falls back to the one before, whose payloads stay
    in Redis for it; with 1 they go at once."""
    keep_every_steps: int | None = Field(default=None, ge=1)
    """Checkpoints of steps that this divides are never deleted; null: none."""
    keep_best: str | None = None
    """Name of an evaluation set: the checkpoint with the highest avg@k there is kept, too. An evaluation counts if it
    is over before its checkpoint is `keep_last` checkpoints old; null: none."""
    async_save: bool = True
    """Checkpoints are written beside the training, from copies in the host's memory, where those of all learner ranks
    take no more than half of what is free there; where they take more, and with false, the training waits."""
    on_stop_s: float = Field(default=60.0, ge=0)
    """A stop on request waits so long for a checkpoint of the step that is being trained; 0 does not ask for one."""


class MetricsSpec(Section):
    sample_groups_per_step: int = Field(default=4, ge=0)
    """Groups of each step whose prompts and responses are kept in samples.jsonl, for `dapo runs samples`."""
    smoothing_steps: int = Field(default=5, ge=1)
    """Window of the running mean drawn over the raw points in curves.png."""
    reference_accuracy: dict[str, Share] = Field(default={})
    """Horizontal lines in curves.png, accuracies from 0 to 1 by label, e.g. {"DAPO paper": 0.50}."""
    reflection_patterns: list[str] = Field(
        default=[r"\bwait\b", r"\blet(.s| me| us) (double-)?(check|verify)\b", r"\bre-?(check|think|examin|evaluat)"]
    )
    """Regular expressions, upper and lower case alike: a response in which one is found counts in `reflection_share`.
    A response on which they take longer than `reward.grader_timeout_s` is left out."""
