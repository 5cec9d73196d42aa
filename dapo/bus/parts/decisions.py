"""What the orchestrator has decided so far, for the one that takes the run over."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from dapo.bus.ledger import FINAL, GroupState
from dapo.bus.parts.part import Part, chunks
from dapo.v1 import messages_pb2 as pb

HISTORY = 512
"""Settled groups of which is known whether they were kept; the newest."""
_CHUNK = 1000
"""Rows of one write."""


class IssuedPrompt(NamedTuple):
    """A prompt for training: its group and its place in the data."""

    group_id: str
    epoch: int
    cursor: int
    requeued_from: str = ""
    """The failed group whose prompt it issues once more."""

    @property
    def place(self) -> str:
        """As it is stored under the group's id, see `_prompt`."""
        return " ".join((str(self.epoch), str(self.cursor), self.requeued_from)).rstrip()


class Ending(NamedTuple):
    """A run ends before its last step, as on its last step: what is cut is trained, the last checkpoint is written."""

    steps: int
    """Batches that it has."""
    state: Literal["succeeded", "failed"]
    """What becomes of it."""
    message: str
    """Why."""


class Decided(NamedTuple):
    """The state of a run's decisions at one moment."""

    last_prompt: IssuedPrompt | None
    """The one with the greatest number that was issued; None before the first."""
    again: list[IssuedPrompt]
    """Prompts before that one which are to be issued once more, oldest first."""
    requeued: list[IssuedPrompt]
    """Failed groups whose prompts are to be issued once more, as new groups; by id."""
    repeats: int
    """Groups that were issued so: they have a number, and no place of their own in the data."""
    last_evaluation_group: str | None
    open_groups: list[str]
    """Those for training that are issued, generated, scored or kept."""
    open_evaluation_groups: list[str]
    passed: list[str]
    """Groups that were filtered or became surplus, and which no batch has named yet as passed over for it."""
    history: list[bool]
    """Whether the newest groups were kept, oldest first."""
    uniform: dict[str, int]
    """Groups that were filtered since the last that was kept, by reason."""
    resting: dict[str, str]
    """What settlements have remembered of rows of the data, by their ids."""
    ending: Ending | None
    cut: int
    """Batches cut; the mark at the end of the log counts as one."""
    trained: int
    """Batches whose step was recorded."""
    base: int
    """Steps that the run had done where a checkpoint put it: nothing is reported of them."""
    cut_metrics: dict[int, dict[str, Any]]
    """What was measured of the newest batches, by number."""
    evaluations: dict[str, Any]
    """As the evaluator has saved it; empty before."""


class Frontier(NamedTuple):
    """What a checkpoint must know of the decisions, so that a run can go on from it alone. Of JSON types.

    Not of it are the end of the run and the streak of uniform groups that may have been its reason: whoever has a run
    go on has mended that."""

    issued: str
    """Id, epoch and cursor of the newest prompt, with spaces between; empty before the first."""
    evaluated: str
    """Id of the newest group of an evaluation, or empty."""
    evaluating: str
    """As the evaluator has saved it, or empty."""
    history: str
    """1 for a kept group, 0 for a filtered one, oldest first."""
    ledger: dict[str, int]
    """Groups whose state is final, by state."""
    unsettled: dict[str, str]
    """Epoch and cursor of each prompt whose group is not settled, or settled only by the end of the run, or in a batch
    that the checkpoint does not cover; behind them the failed group whose prompt it issues once more, if any."""
    requeued: dict[str, str]
    """Epoch and cursor of each failed group's prompt that is to be issued once more, as a new group."""
    repeats: int
    """Groups that were issued so."""
    resting: dict[str, str]
    """What settlements have remembered of rows of the data, by their ids."""


_BEGINNING = Frontier(
    issued="", evaluated="", evaluating="", history="", ledger={}, unsettled={}, requeued={}, repeats=0, resting={}
)


class Decisions(Part):
    """What is written elsewhere, by issues, settlements and cuts, each in the script that takes effect.

    Keys: `log` (batches, the newest prompt of each kind, `repeats`), `open`, `passed`, `drained`, `history`, `uniform`,
    `resting`, `cuts`, and four that are written here: `evaluating`, `ending`, `again`, prompts to issue once more under
    their old ids, and `requeued`, failed groups to issue once more as new ones.
    Promise: what is read is the state after some whole number of the orchestrator's decisions, while no other
    orchestrator decides; workers may go on meanwhile.
    Restart: all of it is in Redis; where that is lost, a checkpoint's Frontier brings it back (`begin_at`).
    """

    async def read(self) -> Decided:
        keys = self._keys
        pipeline = self._control.client.pipeline(transaction=True)
        pipeline.hgetall(keys.log)
        pipeline.hgetall(keys.again)
        pipeline.hgetall(keys.requeued)
        pipeline.zrange(keys.open, 0, 0, byscore=True)
        pipeline.zrange(keys.open, 1, 1, byscore=True)
        pipeline.smembers(keys.passed)
        pipeline.lrange(keys.history, 0, -1)
        pipeline.hgetall(keys.cuts)
        pipeline.get(keys.evaluating)
        pipeline.hgetall(keys.uniform)
        pipeline.hgetall(keys.resting)
        pipeline.get(keys.ending)
        found = await self._control.run(pipeline.execute)
        log, again, requeued, training, evaluating, passed, history, cuts, evaluations, uniform, resting, ending = found
        return Decided(
            last_prompt=_prompt(log[b"issued"]) if b"issued" in log else None,
            again=[_prompt(group_id + b" " + place) for group_id, place in sorted(again.items())],
            requeued=[_prompt(group_id + b" " + place) for group_id, place in sorted(requeued.items())],
            repeats=int(log.get(b"repeats", 0)),
            last_evaluation_group=log[b"evaluated"].decode() if b"evaluated" in log else None,
            open_groups=[group_id.decode() for group_id in training],
            open_evaluation_groups=[group_id.decode() for group_id in evaluating],
            passed=sorted(group_id.decode() for group_id in passed),
            history=[flag == b"1" for flag in history],
            uniform={reason.decode(): int(count) for reason, count in uniform.items()},
            resting=_texts(resting),
            ending=Ending(**json.loads(ending)) if ending else None,
            cut=int(log.get(b"next", 0)),
            trained=steps_trained(log.get(b"trained")),
            base=int(log.get(b"base", 0)),
            cut_metrics={int(number): json.loads(data) for number, data in cuts.items()},
            evaluations=json.loads(evaluations) if evaluations else {},
        )

    async def save_evaluations(self, standing: Mapping[str, Any], epoch: int) -> None:
        """What the evaluator needs to go on with. Raises Fenced."""
        await self._write_as("orchestrator", epoch, "SET", self._keys.evaluating, json.dumps(standing))

    async def end(self, ending: Ending, epoch: int) -> None:
        """For the orchestrator that takes over before the run has come to that end. Raises Fenced."""
        await self._write_as("orchestrator", epoch, "SET", self._keys.ending, json.dumps(ending._asdict()))

    async def requeue(self, prompt: IssuedPrompt, epoch: int) -> None:
        """Note that the prompt of a failed group is to be issued once more; its issue takes the note away. Raises
        Fenced."""
        await self._write_as("orchestrator", epoch, "HSET", self._keys.requeued, prompt.group_id, prompt.place)

    async def frontier(self, step: int) -> Frontier:
        """For the checkpoint of `step` finished steps. For the learner, which has recorded them all."""
        keys = self._keys
        pipeline = self._control.client.pipeline(transaction=True)
        pipeline.hgetall(keys.log)
        pipeline.get(keys.evaluating)
        pipeline.lrange(keys.history, 0, -1)
        pipeline.hgetall(keys.ledger)
        pipeline.zrange(keys.open, 0, 0, byscore=True)
        pipeline.smembers(keys.drained)
        pipeline.xrange(keys.batches, f"{step + 1}-0", "+")
        pipeline.hgetall(keys.again)
        pipeline.hgetall(keys.requeued)
        pipeline.hgetall(keys.resting)
        found = await self._control.run(pipeline.execute)
        log, evaluating, history, ledger, open_groups, drained, batches, again, requeued, resting = found
        untrained = [pb.TrainBatch.FromString(fields[b"data"]) for _, fields in batches]
        ids = {group.group_id for batch in untrained for group in batch.groups}
        ids |= {group_id.decode() for group_id in (*open_groups, *drained)}
        # Those that only the end has made surplus come again, so they do not count as settled.
        counts = {state: int(ledger.get(state.encode(), 0)) for state in FINAL}
        counts[GroupState.SURPLUS] -= len(drained)
        recorded = int(log.get(b"trained", -1))  # By a learner that replays, later batches than these steps'.
        counts[GroupState.TRAINED] -= sum(len(batch.groups) for batch in untrained if batch.batch <= recorded)
        return Frontier(
            issued=log.get(b"issued", b"").decode(),
            evaluated=log.get(b"evaluated", b"").decode(),
            evaluating=(evaluating or b"").decode(),
            history="".join(flag.decode() for flag in history),
            ledger={state.value: count for state, count in counts.items() if count},
            unsettled=_texts(again) | await self._places(sorted(ids)),
            requeued=_texts(requeued),
            repeats=int(log.get(b"repeats", 0)),
            resting=_texts(resting),
        )

    async def _places(self, group_ids: Sequence[str]) -> dict[str, str]:
        pipeline = self._control.client.pipeline(transaction=False)
        for group_id in group_ids:
            pipeline.hget(self._keys.group(group_id), "task")
        found = zip(group_ids, await self._control.run(pipeline.execute), strict=True)
        tasks = [(group_id, pb.PromptTask.FromString(data)) for group_id, data in found if data is not None]
        return {
            group_id: IssuedPrompt(group_id, task.epoch, task.cursor, task.requeued_from).place
            for group_id, task in tasks
        }

    async def begin_at(self, step: int, frontier: Frontier | None, epoch: int) -> None:
        """Put a run where it stood at a checkpoint of `step` steps (None: at its beginning): of what Redis holds of it
        nothing stays but its record, its events, its dead letters and its epochs. Raises Fenced.

        A call that was cut short is made again: until its end the log says that less was trained than nothing.
        """
        await self._script("begin_at", epoch, -1, "", "", "", "", 0, 0)
        keys = self._keys
        await self._unlink_all(but=(keys.run, keys.events, keys.dead, keys.log, keys.epoch(""), keys.lease))
        frontier = frontier or _BEGINNING
        for key, texts in ((keys.resting, frontier.resting), (keys.requeued, frontier.requeued)):
            for chunk in chunks(sorted(texts.items()), _CHUNK):
                fields = [part for pair in chunk for part in pair]
                await self._write_as("orchestrator", epoch, "HSET", key, *fields)
        counts = [part for pair in frontier.ledger.items() for part in pair]
        places = [part for pair in sorted(frontier.unsettled.items()) for part in pair]
        heads = (frontier.issued, frontier.evaluated, frontier.evaluating, frontier.history, frontier.repeats)
        await self._script("begin_at", epoch, step, *heads, len(frontier.ledger), *counts, *places)


def steps_trained(newest: bytes | None) -> int:
    """Of the number of the newest batch that was trained, as the log has it."""
    return int(newest or -1) + 1


def _texts(stored: Mapping[bytes, bytes]) -> dict[str, str]:
    return {name.decode(): text.decode() for name, text in stored.items()}


def _prompt(stored: bytes) -> IssuedPrompt:
    group_id, epoch, cursor, *requeued_from = stored.decode().split()
    return IssuedPrompt(group_id, int(epoch), int(cursor), *requeued_from)
