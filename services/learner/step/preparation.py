"""What a step needs before its first update: π_old, π_ref, values and, from these, PPO's advantages.

All of it is computed once a step, whatever the number of epochs, and stored in the samples.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from dapo.spec import RunSpec
from services.learner.distributed import Ranks, sum_named
from services.learner.loss import gae
from services.learner.model.lora import add_lora
from services.learner.model.policy import PolicyModel, ValueModel
from services.learner.step.batch import MicroBatch, collate
from services.learner.step.engine import LearnerEngine
from services.learner.step.metrics import MetricSums, mismatch_sums, value_sums
from services.learner.step.payloads import TrainingSample

_WHITENING_EPSILON = 1e-8
_MEASURED_AT_ONCE = 32
"""Samples; a whole batch in one array may not fit."""


class Preparation:
    """Computes once per batch, before the first update, what does not change between its updates.

    That is log π_old of the learner (`decoupled`), log π_ref, and with `gae` values, returns and advantages; they are
    stored in the samples as float32, one a response token. It owns the frozen reference model, where there is one; the
    policy and the value network it only asks.
    """

    def __init__(
        self,
        spec: RunSpec,
        policy: LearnerEngine[PolicyModel],
        value: LearnerEngine[ValueModel] | None,
        reference: PreTrainedModel | None,
        *,
        packed: bool,
    ) -> None:
        self.spec = spec
        self.packed = packed
        self.policy = policy
        self.value = value
        self.ranks: Ranks = policy.ranks
        self.decoupled = spec.algorithm.proximal_policy == "decoupled"
        self.reference: PolicyModel | None = None
        if reference is not None:
            if spec.algorithm.reference_refresh_steps is not None:
                # An adapter of its own: merged, bfloat16 might round away what the policy has learned.
                add_lora(reference, spec.lora, spec.seed)
            in_float32 = spec.model.head_dtype == "float32"
            masked = policy.module.masked
            frozen = PolicyModel(reference, spec.sampling.temperature, masked=masked, float32_head=in_float32)
            self.reference = frozen.to(self.ranks.device).eval().requires_grad_(False)

    @property
    def needed(self) -> bool:
        return self.decoupled or self.reference is not None or self.value is not None

    def run(
        self,
        micro_batches: Sequence[Sequence[TrainingSample]],
        counted: Sequence[TrainingSample],
        metric_sums: MetricSums,
    ) -> None:
        """Fill in the samples of `micro_batches`; all ranks together, with equally many of them.

        `counted` are the samples that this rank speaks for: with several epochs two ranks may hold the same one.
        """
        for samples in micro_batches:
            self._forward(samples)
        if self.value is not None:
            for samples in micro_batches:
                self._estimate_advantages(samples)
            if self.spec.algorithm.advantage_whitening:
                held = [sample for samples in micro_batches for sample in samples]
                self._whiten(held, counted)
        self._measure(counted, metric_sums)

    @torch.no_grad()
    def _forward(self, samples: Sequence[TrainingSample]) -> None:
        batch = collate(samples, self.ranks.device, packed=self.packed)
        inputs = (batch.ids, batch.positions, batch.targets, batch.position_ids)
        if self.decoupled:
            _store(samples, "proximal", batch, self.policy(*inputs)[0])
        if self.reference is not None:
            _store(samples, "reference", batch, self.reference(*inputs)[0])
        if self.value is not None:
            _store(samples, "values", batch, self.value(batch.ids, batch.positions, batch.position_ids))

    def _estimate_advantages(self, samples: Sequence[TrainingSample]) -> None:
        if not samples:
            return
        algorithm = self.spec.algorithm
        batch = collate(samples, torch.device("cpu"))
        in_reward = algorithm.kl_placement == "reward" and self.reference is not None
        rewards = gae.token_rewards(
            np.array([sample.reward for sample in samples]),
            batch.mask.numpy(),
            (batch.proximal - batch.reference).numpy() if in_reward else None,
            algorithm.kl_coefficient,
        )
        advantages, returns = gae.estimate(
            rewards, batch.values.numpy(), batch.mask.numpy(), gamma=algorithm.gae_gamma, lam=algorithm.gae_lambda
        )
        for row, sample in enumerate(samples):
            sample.advantages = advantages[row, : sample.response_tokens].astype(np.float32)
            sample.returns = returns[row, : sample.response_tokens].astype(np.float32)

    def _whiten(self, held: Sequence[TrainingSample], counted: Sequence[TrainingSample]) -> None:
        """Shift and scale all advantages to mean 0 and deviation 1 over the train batch's tokens."""
        mine = [sample.advantages[sample.mask].astype(np.float64) for sample in counted]
        sums = sum_named({"count": float(sum(map(len, mine))), "sum": float(sum(values.sum() for values in mine))})
        mean = sums["sum"] / max(1.0, sums["count"])
        squares = sum_named({"squares": float(sum(np.square(values - mean).sum() for values in mine))})["squares"]
        deviation = (squares / max(1.0, sums["count"])) ** 0.5
        for sample in held:
            whitened = (sample.advantages - mean) / (deviation + _WHITENING_EPSILON)
            sample.advantages = np.where(sample.mask, whitened, 0.0).astype(np.float32)

    def _measure(self, counted: Sequence[TrainingSample], metric_sums: MetricSums) -> None:
        # At least once, so that every rank reports the same names.
        for start in range(0, max(1, len(counted)), _MEASURED_AT_ONCE):
            batch = collate(counted[start : start + _MEASURED_AT_ONCE], torch.device("cpu"))
            if self.decoupled:
                metric_sums.add(mismatch_sums(batch.proximal, batch.behaviour, batch.mask))
            if self.value is not None:
                metric_sums.add(value_sums(batch.values, batch.returns, batch.mask))

    @torch.no_grad()
    def refresh_reference(self) -> None:
        """The current policy becomes the reference model. A collective under ZeRO 3."""
        assert self.reference is not None
        frozen = dict(self.reference.causal.named_parameters())
        for name, parameter in self.policy.module.causal.named_parameters():
            if parameter.requires_grad:
                with self.policy.gathered([parameter]):
                    frozen[name].copy_(parameter)


def _store(samples: Sequence[TrainingSample], name: str, batch: MicroBatch, values: Tensor) -> None:
    """Values [n] of the masked tokens into the samples' arrays of that name."""
    rows = batch.padded(values).cpu().numpy()
    for row, sample in zip(rows, samples, strict=False):
        setattr(sample, name, row[: sample.response_tokens])
