"""Trains one batch: plan, fetch, prepare, update. The same on every rank, which hold different shares."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.learner.distributed import Ranks, min_ints
from services.learner.loss.denominators import Denominators
from services.learner.loss.gradient_noise import gradient_sums
from services.learner.loss.policy import Objective, TokenInputs, policy_loss, value_loss
from services.learner.model.policy import PolicyModel, ValueModel
from services.learner.step.batch import MicroBatch, collate
from services.learner.step.engine import LearnerEngine, rate_factor
from services.learner.step.metrics import (
    MetricSums,
    lag_sums,
    mismatch_sums,
    record_metrics,
    step_metrics,
    update_metrics,
    update_sums,
)
from services.learner.step.minibatch import BatchPlan, plan_batch
from services.learner.step.packing import packs
from services.learner.step.payloads import BatchLost, TrainingSample
from services.learner.step.preparation import Preparation

Fetch = Callable[[dict[int, pb.TrainSample]], dict[int, TrainingSample]]
"""Gives the usable samples of one rank's share; whoever provides it reports the others."""

_NOT_MINE = 2**62
_LOST = -1


def flat_samples(batch: pb.TrainBatch) -> list[tuple[pb.TrainGroup, pb.TrainSample]]:
    """Every sample of a batch beside its group, in the order of the record: position = index everywhere."""
    return [(group, sample) for group in batch.groups for sample in group.samples]


@dataclass(frozen=True, slots=True)
class Update:
    """One optimizer update as this rank runs it, with the denominators that all ranks share."""

    micro_batches: list[list[TrainingSample]]
    totals: Denominators


class Trainer:
    """Trains one batch: plan, fetch, prepare, update. All ranks call `train` together, each with its share of samples.

    Parts: `engine` (LearnerEngine of the policy), `value` (of the value network, with `gae`), `preparation`
    (Preparation: what is computed once before the first update, and the frozen reference model). Losses and metrics are
    normalised by token counts over all ranks and micro-batches, so they do not depend on how the work is cut.
    Parameters and optimizer state are in the engines; CheckpointStore saves them. Otherwise nothing is kept from one
    batch to the next.
    """

    def __init__(
        self,
        spec: RunSpec,
        engine: LearnerEngine[PolicyModel],
        value: LearnerEngine[ValueModel] | None = None,
        reference: PreTrainedModel | None = None,
    ) -> None:
        self.spec = spec
        self.engine = engine
        self.value = value
        self.ranks: Ranks = engine.ranks
        self.objective = Objective.from_spec(spec.algorithm, spec.sampling.max_response_tokens)
        self.packed = packs(spec.training.packing, engine.module.causal)
        self.preparation = Preparation(spec, engine, value, reference, packed=self.packed)

    def train(self, batch: pb.TrainBatch, fetch: Fetch) -> dict[str, float]:
        """Turn version `batch.batch` into the next one; returns the step's metrics. Called by all ranks together.

        Raises BatchLost on all of them, and trains nothing, where no sample of the loss is usable.
        """
        started = time.monotonic()
        rate = self._set_rates(batch.batch)
        records = [sample for _, sample in flat_samples(batch)]
        plan = plan_batch(
            [record.prompt_tokens + record.response_tokens for record in records],
            [record.in_loss and record.response_tokens > 0 for record in records],
            updates=self.spec.training.updates_per_step,
            epochs=self.spec.training.update_epochs,
            ranks=self.ranks.world_size,
            seed=self.spec.seed,
            batch=batch.batch,
            packed=self.packed,
        )
        wanted = plan.rank_indices(self.ranks.rank)
        samples = fetch({index: records[index] for index in wanted})
        loss_tokens, lost = self._agree_on_loss_tokens(batch.batch, len(records), wanted, samples)
        metric_sums = MetricSums()
        if self.preparation.needed:
            self._prepare(plan, loss_tokens, samples, metric_sums)
        metrics = self._run_updates(self._updates(plan, loss_tokens, samples), batch.batch, metric_sums)
        self._refresh_reference(batch.batch)
        metrics |= record_metrics(batch, loss_tokens)
        return metrics | {"lost_responses": float(lost), "lr": rate, "train_s": time.monotonic() - started}

    def _set_rates(self, step: int) -> float:
        """Both learning rates follow one schedule, the policy's from where it begins to learn. Returns the policy's."""
        optimizer, steps = self.spec.optimizer, self.spec.training.steps
        resting = 0
        if self.value is not None:
            resting = self.spec.value.warmup_steps
            self.value.set_learning_rate(self.spec.value.learning_rate * rate_factor(step, optimizer, steps))
        rate = optimizer.learning_rate * rate_factor(max(0, step - resting), optimizer, steps - resting)
        self.engine.set_learning_rate(rate)
        return rate

    def _agree_on_loss_tokens(
        self, batch: int, count: int, wanted: Sequence[int], samples: dict[int, TrainingSample]
    ) -> tuple[list[int], int]:
        """Tokens in the loss of every sample, 0 where some rank could not use it or nobody trains on it; and how many
        some rank could not use. Raises BatchLost where those are all that should be trained on."""
        mine = [_NOT_MINE] * count
        for index in wanted:
            mine[index] = samples[index].loss_tokens if index in samples else _LOST
        agreed = min_ints(mine)
        lost = agreed.count(_LOST)
        if lost and lost == count - agreed.count(_NOT_MINE):
            raise BatchLost(batch, lost)
        return [tokens if 0 < tokens < _NOT_MINE else 0 for tokens in agreed], lost

    def _prepare(
        self, plan: BatchPlan, loss_tokens: Sequence[int], samples: dict[int, TrainingSample], metric_sums: MetricSums
    ) -> None:
        packed = plan.whole(loss_tokens, self.spec.training.max_tokens_per_micro_batch)[self.ranks.rank]
        first_epoch = plan.shares[: self.spec.training.updates_per_step]
        counted = [index for update in first_epoch for index in update[self.ranks.rank] if loss_tokens[index]]
        self.preparation.run(
            [[samples[index] for index in indices] for indices in packed],
            [samples[index] for index in counted],
            metric_sums,
        )

    def _updates(self, plan: BatchPlan, loss_tokens: Sequence[int], samples: dict[int, TrainingSample]) -> list[Update]:
        """This rank's micro-batches of each update that has anything to train on."""
        updates = []
        for number in range(len(plan.shares)):
            packed, totals = plan.update(number, loss_tokens, self.spec.training.max_tokens_per_micro_batch)
            if totals.tokens:
                mine = [[samples[index] for index in indices] for indices in packed[self.ranks.rank]]
                updates.append(Update(mine, totals))
        return updates

    def _run_updates(self, updates: Sequence[Update], step: int, metric_sums: MetricSums) -> dict[str, float]:
        frozen = self.value is not None and step < self.spec.value.warmup_steps
        norms, value_norms = [], []
        for number, update in enumerate(updates):
            for samples in update.micro_batches:
                metric_sums.add(lag_sums(samples, step))
                micro_batch = collate(samples, self.ranks.device, packed=self.packed)
                self._policy_micro_batch(micro_batch, update, metric_sums, number=number, frozen=frozen)
                self._value_micro_batch(micro_batch, update, metric_sums)
            if not frozen:
                norms.append(self.engine.step())
            if self.value is not None:
                value_norms.append(self.value.step())
        metrics = step_metrics(metric_sums, len(updates))
        return metrics | update_metrics(norms, value_norms if self.value is not None else None)

    def _policy_micro_batch(
        self, micro_batch: MicroBatch, update: Update, metric_sums: MetricSums, *, number: int, frozen: bool
    ) -> None:
        """Forward, and backward unless the policy rests while the value network warms up.

        The mismatch is measured where the policy has not moved yet: on the first update, or, decoupled, in preparation.
        """
        with torch.set_grad_enabled(not frozen):
            logprobs, entropy = self.engine(
                micro_batch.ids, micro_batch.positions, micro_batch.targets, micro_batch.position_ids
            )
            inputs = TokenInputs(
                current=micro_batch.padded(logprobs),
                proximal=micro_batch.proximal,
                behaviour=micro_batch.behaviour,
                advantages=micro_batch.advantages,
                mask=micro_batch.mask,
                entropy=micro_batch.padded(entropy),
                reference=micro_batch.reference if self.preparation.reference is not None else None,
            )
            loss = policy_loss(inputs, self.objective, update.totals)
        if not frozen:
            self.engine.backward(loss)
            gradient = self.engine.module.take_hidden_gradient() / self.ranks.world_size
            metric_sums.add(gradient_sums(gradient, micro_batch.mask, number))
        sums, maxima = update_sums(inputs, self.objective)
        metric_sums.add(sums | {"loss": loss.detach()})
        metric_sums.add_maxima(maxima)
        if number == 0 and not self.preparation.decoupled:
            metric_sums.add(mismatch_sums(inputs.current, inputs.behaviour, inputs.mask))

    def _value_micro_batch(self, micro_batch: MicroBatch, update: Update, metric_sums: MetricSums) -> None:
        if self.value is None:
            return
        values = micro_batch.padded(self.value(micro_batch.ids, micro_batch.positions, micro_batch.position_ids))
        loss = value_loss(
            values, micro_batch.values, micro_batch.returns, micro_batch.mask, update.totals, clip=self.spec.value.clip
        )
        self.value.backward(loss)
        metric_sums.add({"value_loss": loss.detach()})

    def _refresh_reference(self, step: int) -> None:
        period = self.spec.algorithm.reference_refresh_steps
        if period is not None and (step + 1) % period == 0:
            self.preparation.refresh_reference()
