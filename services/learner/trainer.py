"""Trains one batch: plan, fetch, updates, metrics. The same on every rank, which hold different shares."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.learner.batch import MicroBatch, collate
from services.learner.distributed import Ranks, sum_ints, sum_named
from services.learner.engine import LearnerEngine, learning_rate
from services.learner.loss import Objective, TokenInputs, mismatch_sums, policy_loss, update_sums
from services.learner.minibatch import BatchPlan, Denominators, merge_sums, plan_batch
from services.learner.model import PolicyModel
from services.learner.payloads import Sample

Fetch = Callable[[dict[int, pb.TrainSample]], dict[int, Sample]]
"""Gives the usable samples of one rank's share; whoever provides it reports the others."""

UPDATE_NAMES = ("tokens", "entropy", "clipped_low", "clipped_high", "loss")
MISMATCH_NAMES = ("mismatch_tokens", "mismatch_kl", "mismatch_abs", "weight", "weight_squared")


def flat_samples(batch: pb.TrainBatch) -> list[tuple[pb.TrainGroup, pb.TrainSample]]:
    """Every sample of a batch beside its group, in the order of the record: position = index everywhere."""
    return [(group, sample) for group in batch.groups for sample in group.samples]


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer update as this rank runs it, with the denominators that all ranks share."""

    micro_batches: list[list[Sample]]
    totals: Denominators


class Trainer:
    """Holds the policy's engine and, where the loss asks for one, the frozen reference model."""

    def __init__(self, spec: RunSpec, engine: LearnerEngine, reference: PreTrainedModel | None) -> None:
        self.spec = spec
        self.engine = engine
        self.ranks: Ranks = engine.ranks
        self.objective = Objective.from_spec(spec.algorithm, spec.sampling.max_response_tokens)
        self.decoupled = spec.algorithm.proximal_policy == "decoupled"
        self.reference = None
        if reference is not None:
            frozen = PolicyModel(reference, spec.sampling.temperature).to(self.ranks.device)
            self.reference = frozen.eval().requires_grad_(False)

    def train(self, batch: pb.TrainBatch, fetch: Fetch) -> dict[str, float]:
        """Turn version `batch.batch` into the next one; returns the step's metrics. Called by all ranks together."""
        started = time.monotonic()
        rate = learning_rate(batch.batch, self.spec.optimizer)
        self.engine.set_learning_rate(rate)
        records = [sample for _, sample in flat_samples(batch)]
        plan = plan_batch(
            [record.prompt_tokens + record.response_tokens for record in records],
            [record.in_loss and record.response_tokens > 0 for record in records],
            updates=self.spec.training.updates_per_step,
            ranks=self.ranks.world_size,
            seed=self.spec.seed,
            batch=batch.batch,
        )
        samples = fetch({index: records[index] for index in plan.rank_indices(self.ranks.rank)})
        loss_tokens = self._agree_on_loss_tokens(len(records), samples)
        updates = self._updates(plan, loss_tokens, samples)
        if self.decoupled:
            self._recompute_proximal(updates)
        metrics = self._run_updates(updates)
        metrics |= record_metrics(batch, loss_tokens)
        return metrics | {"lr": rate, "train_s": time.monotonic() - started}

    def _agree_on_loss_tokens(self, count: int, samples: dict[int, Sample]) -> list[int]:
        """Tokens in the loss of every sample of the batch: 0 where some rank could not use it."""
        mine = [samples[index].loss_tokens if index in samples else 0 for index in range(count)]
        return sum_ints(mine)

    def _updates(self, plan: BatchPlan, loss_tokens: Sequence[int], samples: dict[int, Sample]) -> list[Update]:
        """This rank's micro-batches of each update that has anything to train on."""
        updates = []
        for number in range(len(plan.shares)):
            packed, totals = plan.update(number, loss_tokens, self.spec.training.max_tokens_per_micro_batch)
            if totals.tokens:
                mine = [[samples[index] for index in indices] for indices in packed[self.ranks.rank]]
                updates.append(Update(mine, totals))
        return updates

    def _recompute_proximal(self, updates: Sequence[Update]) -> None:
        """π_old of the decoupled objective: the learner's own log-probabilities before the step's first update."""
        for update in updates:
            for samples in update.micro_batches:
                micro_batch = collate(samples, self.ranks.device)
                with torch.no_grad():
                    logprobs, _ = self._policy(micro_batch)
                rows = micro_batch.padded(logprobs).cpu().numpy()
                for row, sample in zip(rows, samples, strict=False):
                    sample.proximal = row[: sample.response_tokens]

    def _policy(self, micro_batch: MicroBatch) -> tuple[Tensor, Tensor]:
        return self.engine.logprobs(micro_batch.ids, micro_batch.positions, micro_batch.targets)

    def _run_updates(self, updates: Sequence[Update]) -> dict[str, float]:
        names = (*UPDATE_NAMES, *MISMATCH_NAMES, *(("kl_reference",) if self.reference is not None else ()))
        sums = dict.fromkeys(names, 0.0)
        norms = []
        for number, update in enumerate(updates):
            for samples in update.micro_batches:
                merge_sums(sums, self._micro_batch(collate(samples, self.ranks.device), update, first=number == 0))
            norms.append(self.engine.step())
        sums = sum_named(sums)
        return {
            **update_metrics(sums, len(updates)),
            "grad_norm": sum(norms) / max(1, len(norms)),
            "updates": float(len(updates)),
        }

    def _micro_batch(self, micro_batch: MicroBatch, update: Update, *, first: bool) -> dict[str, float]:
        """Forward and backward of one micro-batch; its sums for the metrics.

        The mismatch is measured where the policy has not moved yet: on the first update, or, decoupled, everywhere.
        """
        logprobs, entropy = self._policy(micro_batch)
        inputs = TokenInputs(
            current=micro_batch.padded(logprobs),
            proximal=micro_batch.proximal,
            behaviour=micro_batch.behaviour,
            advantages=micro_batch.advantages,
            mask=micro_batch.mask,
            entropy=micro_batch.padded(entropy),
            reference=self._reference_logprobs(micro_batch),
        )
        contribution = policy_loss(inputs, self.objective, update.totals)
        self.engine.backward(contribution)
        sums = {"loss": contribution.detach(), **update_sums(inputs, self.objective)}
        if self.decoupled or first:
            old = inputs.proximal if self.decoupled else inputs.current
            sums |= mismatch_sums(old, inputs.behaviour, inputs.mask)
        return dict(zip(sums, torch.stack([value.double() for value in sums.values()]).tolist(), strict=True))

    def _reference_logprobs(self, micro_batch: MicroBatch) -> Tensor | None:
        if self.reference is None:
            return None
        with torch.no_grad():
            logprobs, _ = self.reference(micro_batch.ids, micro_batch.positions, micro_batch.targets)
        return micro_batch.padded(logprobs)


def update_metrics(sums: dict[str, float], updates: int) -> dict[str, float]:
    """Means over the tokens in the loss, from sums over all ranks, micro-batches and updates."""
    tokens = max(1.0, sums["tokens"])
    first = max(1.0, sums["mismatch_tokens"])
    metrics = {
        "loss": sums["loss"] / max(1, updates),
        "entropy": sums["entropy"] / tokens,
        "clip_fraction_low": sums["clipped_low"] / tokens,
        "clip_fraction_high": sums["clipped_high"] / tokens,
        "mismatch_kl": sums["mismatch_kl"] / first,
        "mismatch_abs_logprob": sums["mismatch_abs"] / first,
        "effective_sample_size": sums["weight"] ** 2 / max(first * sums["weight_squared"], 1e-12),
    }
    if "kl_reference" in sums:
        metrics["kl_reference"] = sums["kl_reference"] / tokens
    return metrics


def record_metrics(batch: pb.TrainBatch, loss_tokens: Sequence[int]) -> dict[str, float]:
    """What the batch record alone tells: staleness in versions by group, lengths of what was trained on in tokens."""
    staleness = [float(batch.batch) - group.issued_version for group in batch.groups]
    pairs = zip(flat_samples(batch), loss_tokens, strict=True)
    lengths = [float(sample.response_tokens) for (_, sample), tokens in pairs if tokens]
    return {
        "staleness_mean": sum(staleness) / max(1, len(staleness)),
        "staleness_max": max(staleness, default=0.0),
        "trained_tokens": float(sum(loss_tokens)),
        "trained_responses": float(len(lengths)),
        "trained_response_length_mean": sum(lengths) / max(1, len(lengths)),
        "trained_response_length_max": max(lengths, default=0.0),
    }
