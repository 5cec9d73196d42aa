"""What the orchestrator has decided so far, for the one that takes the run over."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from dapo.bus.parts.part import Part

HISTORY = 512
"""Settled groups of which is known whether they were kept; the newest."""


class IssuedPrompt(NamedTuple):
    """Which prompt for training was issued last."""

    group_id: str
    epoch: int
    cursor: int


class Decided(NamedTuple):
    """The state of a run's decisions at one moment."""

    last_prompt: IssuedPrompt | None
    """None before the first."""
    last_evaluation_group: str | None
    open_groups: list[str]
    """Those for training that are issued, generated, scored or kept."""
    open_evaluation_groups: list[str]
    passed: list[str]
    """Groups that were filtered or became surplus, and which no batch has named yet as passed over for it."""
    history: list[bool]
    """Whether the newest groups were kept, oldest first."""
    cut: int
    """Batches cut; the mark at the end of the log counts as one."""
    trained: int
    """Batches whose step was recorded."""
    cut_metrics: dict[int, dict[str, Any]]
    """What was measured of the newest batches, by number."""
    evaluations: dict[str, Any]
    """As the evaluator has saved it; empty before."""


class Decisions(Part):
    """A reader of what is written elsewhere: by issues, settlements and cuts, each in the script that takes effect.

    Keys: `log` (batches, and the newest prompt of each kind), `open`, `passed`, `history`, `cuts`, and `evaluating`,
    which is written here.
    Promise: what is read is the state after some whole number of the orchestrator's decisions, while no other
    orchestrator decides; workers may go on meanwhile.
    """

    async def read(self) -> Decided:
        keys = self._keys
        pipeline = self._control.client.pipeline(transaction=True)
        pipeline.hgetall(keys.log)
        pipeline.zrange(keys.open, 0, 0, byscore=True)
        pipeline.zrange(keys.open, 1, 1, byscore=True)
        pipeline.smembers(keys.passed)
        pipeline.lrange(keys.history, 0, -1)
        pipeline.hgetall(keys.cuts)
        pipeline.get(keys.evaluating)
        log, training, evaluating, passed, history, cuts, evaluations = await self._control.run(pipeline.execute)
        return Decided(
            last_prompt=_issued(log.get(b"issued")),
            last_evaluation_group=log[b"evaluated"].decode() if b"evaluated" in log else None,
            open_groups=[group_id.decode() for group_id in training],
            open_evaluation_groups=[group_id.decode() for group_id in evaluating],
            passed=sorted(group_id.decode() for group_id in passed),
            history=[flag == b"1" for flag in history],
            cut=int(log.get(b"next", 0)),
            trained=int(log.get(b"trained", -1)) + 1,
            cut_metrics={int(number): json.loads(data) for number, data in cuts.items()},
            evaluations=json.loads(evaluations) if evaluations else {},
        )

    async def save_evaluations(self, standing: Mapping[str, Any], epoch: int) -> None:
        """What the evaluator needs to go on with. Raises Fenced."""
        await self._write_as("orchestrator", epoch, "SET", self._keys.evaluating, json.dumps(standing))


def _issued(stored: bytes | None) -> IssuedPrompt | None:
    if stored is None:
        return None
    group_id, epoch, cursor = stored.decode().split()
    return IssuedPrompt(group_id, int(epoch), int(cursor))
