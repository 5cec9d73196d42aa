"""The algorithm family as independent switches, and the presets that set them.

DAPO: arXiv 2503.14476. GRPO: arXiv 2402.03300. PPO: arXiv 1707.06347, with GAE, arXiv 1506.02438.
"""

from typing import Any, Literal

from pydantic import Field, model_validator

from dapo.spec.tree.base import Section

Preset = Literal["dapo", "grpo", "ppo", "verl-parity"]
LossAggregation = Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]

PRESETS: dict[str, dict[str, Any]] = {
    "dapo": {},
    "grpo": {
        "clip_high": 0.2,
        "loss_aggregation": "seq-mean-token-mean",
        "kl_coefficient": 0.04,
        "dynamic_sampling": False,
        "soft_overlong_punishment": False,
    },
    "ppo": {
        "advantage_estimator": "gae",
        "advantage_whitening": True,
        "clip_high": 0.2,
        "dynamic_sampling": False,
        "soft_overlong_punishment": False,
    },
    "verl-parity": {
        "advantage_std_ddof": 1,
        "advantage_epsilon": 1e-6,
        "dual_clip": 10.0,
    },
}


GROUP_SIZES: dict[str, int] = {"dapo": 16, "grpo": 8, "ppo": 1, "verl-parity": 16}
"""Default of `sampling.group_size` under each preset."""


class AlgorithmSpec(Section):
    preset: Preset = "dapo"
    """Where the defaults of the fields below come from; a field that is written out wins over its preset."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """ε_low: a probability ratio is clipped from below at 1 − ε_low."""
    clip_high: float = Field(default=0.28, gt=0)
    """ε_high: a probability ratio is clipped from above at 1 + ε_high (Clip-Higher: above ε_low)."""
    dual_clip: float | None = Field(default=None, gt=1)
    """Bound c of the dual clip for negative advantages; none switches it off. Not in the DAPO paper."""
    loss_aggregation: LossAggregation = "token-mean"
    """How token losses are summed over a mini-batch; DAPO's is token-mean, GRPO's seq-mean-token-mean."""
    advantage_estimator: Literal["group", "gae"] = "group"
    """group: a response's reward against its group's mean. gae: a value network's estimate for each token (PPO)."""
    gae_gamma: float = Field(default=1.0, ge=0, le=1)
    """γ of GAE: discount of a later token's reward."""
    gae_lambda: float = Field(default=1.0, ge=0, le=1)
    """λ of GAE: 1 trusts the rewards alone (no bias), 0 the next token's value alone (least variance)."""
    advantage_whitening: bool = False
    """gae: shift and scale the advantages of a train batch to mean 0 and deviation 1 over its tokens."""
    advantage_std: bool = True
    """Divide a group's centred rewards by their standard deviation."""
    advantage_std_ddof: Literal[0, 1] = 0
    """Degrees of freedom taken off in that deviation: 0 for n, 1 for n − 1 (verl)."""
    advantage_epsilon: float = Field(default=1e-6, ge=0)
    """Added to the standard deviation before dividing."""
    dynamic_sampling: bool = True
    """Train only on groups whose raw accuracy is neither 0 nor 1, and refill what was filtered."""
    max_uniform_batches: int | None = Field(default=20, ge=1)
    """Dynamic sampling: so many batches' worth of groups (× `training.prompts_per_step`), all of them filtered and none
    kept in between, end the run as failed, with its last checkpoint; none: never. Two batches' worth are an alert."""
    rest_uniform_after: int | None = Field(default=None, ge=1)
    """Dynamic sampling: a prompt that came back all correct, or all wrong, so many times in a row rests. It is left out
    of the next `rest_epochs` epochs, then asked again, and rests again after one more such group; none: none rests."""
    rest_epochs: int = Field(default=1, ge=1, le=100)
    """Epochs for which a prompt rests."""
    soft_overlong_punishment: bool = True
    """Add the length penalty of `reward.overlong_buffer_tokens` to the reward."""
    overlong_filtering: bool = False
    """Take truncated responses out of the loss and its denominators.

    They still count in their group's mean, std and #correct."""
    truncated_reward: Literal["graded", "incorrect"] = "graded"
    """Reward of a truncated response: as its text was graded, or `reward.incorrect` whatever it says."""
    kl_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the KL to the reference model, the initial model unless it is refreshed; above 0 loads it."""
    kl_placement: Literal["loss", "reward"] = "loss"
    """loss: k3 estimate, a term of the loss (GRPO). reward: −β log(π_old/π_ref) in each token's reward (gae only)."""
    measure_kl: bool = False
    """Load the reference model to report `kl_reference`, even where no KL enters the objective."""
    reference_refresh_steps: int | None = Field(default=None, gt=0)
    """Steps after which the current policy becomes the reference model; none keeps the initial one."""
    entropy_coefficient: float = Field(default=0.0, ge=0)
    """Weight of the entropy bonus in the loss."""
    proximal_policy: Literal["behaviour", "decoupled"] = "behaviour"
    """π_old of the ratio: the sampler's own log-probabilities, or the learner's before the step's first update."""
    importance_cap: float | None = Field(default=2.0, gt=1)
    """C of the weights π_old/μ that `decoupled` gives each token; none switches the weights off."""
    importance_mode: Literal["truncate", "mask"] = "truncate"
    """truncate: weight min(π_old/μ, C). mask (IcePop): 0 outside [1/C, C], π_old/μ inside."""

    @property
    def needs_reference(self) -> bool:
        return self.kl_coefficient > 0 or self.measure_kl

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, value: Any) -> Any:
        preset = value.get("preset", "dapo") if isinstance(value, dict) else None
        return {**PRESETS[preset], **value} if isinstance(preset, str) and preset in PRESETS else value
