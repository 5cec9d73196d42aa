"""Scored groups of the training, settled: kept or filtered."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Literal, NamedTuple

from dapo.algo.dynamic_sampling import Resting, Uniform, UniformStreak, uniform_kind
from dapo.bus import Delivery, GroupRecord, Outcome, Settlement
from dapo.bus.parts.decisions import Decided
from dapo.bus.roles import OrchestratorBus
from dapo.spec.run import RunSpec
from services.orchestrator.records.samples import SampleArchive, make_sample

log = logging.getLogger(__name__)


class Settled(NamedTuple):
    record: GroupRecord
    state: Literal["kept", "filtered", "failed"]


class Settler:
    """Keeps a group iff its raw verdicts differ (with `algorithm.dynamic_sampling`, else always), in the order given.

    `streak` counts the filtered ones since the last that was kept, `resting` knows which rows of the data later epochs
    leave out. Some groups of each step are kept for people to read, before the payloads of a filtered one are deleted.
    Restart: what was settled is in Redis, each settlement in one script with the count and what is known of its row.
    """

    def __init__(self, bus: OrchestratorBus, spec: RunSpec, archive: SampleArchive) -> None:
        self._bus = bus
        self._filters = spec.algorithm.dynamic_sampling
        self._archive = archive
        self.resting = Resting(spec.algorithm.rest_uniform_after, spec.algorithm.rest_epochs)
        self.streak = UniformStreak(spec.training.prompts_per_step, spec.algorithm.max_uniform_batches)

    def take_up(self, decided: Decided) -> None:
        self.streak.take_up(decided.uniform)
        self.resting.take_up(decided.resting)

    async def settle(self, scored: Sequence[tuple[Delivery, GroupRecord]], epoch: int) -> list[Settled]:
        """Those that nobody had settled before, and all that failed. Raises Fenced."""
        kinds = [self._filtered_as(record) for _, record in scored]
        await asyncio.gather(
            *(self._keep_sample(record, kind) for (_, record), kind in zip(scored, kinds, strict=True))
        )
        settlements = [
            self._settlement(delivery, record, kind) for (delivery, record), kind in zip(scored, kinds, strict=True)
        ]
        outcomes = await self._bus.groups.settle_many(settlements, epoch)
        settled: list[Settled] = []
        for (_, record), kind, outcome in zip(scored, kinds, outcomes, strict=True):
            if record.state == "failed":
                settled.append(Settled(record, "failed"))
            elif outcome == Outcome.WRITTEN:
                self.streak.observe(kind)
                settled.append(Settled(record, "filtered" if kind else "kept"))
        return settled

    def _filtered_as(self, record: GroupRecord) -> Uniform | None:
        """None where it is kept, or has failed."""
        if not self._filters or record.state == "failed":
            return None
        return uniform_kind([grade.correct for grade in record.grades])

    async def _keep_sample(self, record: GroupRecord, kind: Uniform | None) -> None:
        outcome = "filtered" if kind else "kept"
        if record.state != "failed" and self._archive.wants(record.task.issued_version, outcome):
            texts = await self._bus.payloads.get([grade.completion.text_key for grade in record.grades])
            await self._archive.secure()
            try:
                self._archive.add(make_sample(record, texts, outcome))
            except OSError as error:
                what = "group %s is not kept in samples.jsonl: %s"
                log.warning(what, record.group_id, error, extra={"group": record.group_id})

    def _settlement(self, delivery: Delivery, record: GroupRecord, kind: Uniform | None) -> Settlement:
        if record.state == "failed":  # which is final: its notice is acknowledged
            return Settlement(record.group_id, "surplus", "failed", delivery)
        decided = Settlement(record.group_id, "filtered" if kind else "kept", kind or "", delivery)
        remembered = self.resting.observe(record.task.row_id, record.task.epoch, kind)
        return decided if remembered is None else decided._replace(row=record.task.row_id, remembered=remembered)
