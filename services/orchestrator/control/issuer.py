"""Prompts for training, from the data to the bus."""

from collections import deque

from dapo.algo.dynamic_sampling import Resting
from dapo.algo.frontier import Frontier, FrontierItem
from dapo.algo.pacing import Pacing
from dapo.bus import BusError, BusFull, GroupState
from dapo.bus.failures import HOPELESS, explain_failure
from dapo.bus.parts.decisions import Decided, IssuedPrompt
from dapo.bus.parts.records import GroupFacts
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import Alert, Emit
from dapo.data import Dataset
from dapo.spec.run import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.control.alerts import ControllerError


class NotRequeued(RuntimeError):
    """The prompt of this group is not issued once more; the message says why."""


class PromptIssuer:
    """Draws rows from the frontier (seeded shuffle, epochs) and issues them as groups, whose ids it numbers.

    A prompt that was drawn is issued once, in order: where Redis is full it waits here, pacing counts it as issued, and
    nothing else is drawn before it is gone. Rows that rest are left out, and the places of the order that were left out
    are known from the newest prompt's place and number. The prompt of a failed group that is asked for comes next, as a
    new group (`requeue`). Restart: its position is in Redis, written with its issue, and
    `take_up` goes on behind it; prompts that wait are drawn again. Where Redis was lost, those that the checkpoint
    calls unsettled come first, under their old numbers.
    """

    def __init__(
        self, bus: OrchestratorBus, spec: RunSpec, dataset: Dataset, pacing: Pacing, resting: Resting, emit: Emit
    ) -> None:
        self._bus = bus
        self._spec = spec
        self._dataset = dataset
        self._pacing = pacing
        self._resting = resting
        self._emit = emit
        self._frontier = Frontier(dataset.parts, seed=spec.seed, shuffle=spec.data.shuffle)
        self._drawn = 0
        self._repeats = 0
        self._again: deque[tuple[IssuedPrompt, FrontierItem]] = deque()
        self._requeued: dict[str, FrontierItem] = {}
        self._asked: set[str] = set()
        self._waiting: list[pb.PromptTask] = []
        self._told_full = False

    def take_up(self, decided: Decided) -> None:
        """Issue those of `again`, then the `requeued`, then go on behind the prompt that was issued last. Raises
        ControllerError where the data has no such positions."""
        last = decided.last_prompt
        if last is None:
            return
        frontier, spec = self._frontier, self._spec
        try:
            self._again = deque((one, frontier.item(one.epoch, one.cursor)) for one in decided.again)
            self._requeued = {one.group_id: frontier.item(one.epoch, one.cursor) for one in decided.requeued}
            state = frontier.behind(last.epoch, last.cursor)
            self._frontier = Frontier(self._dataset.parts, seed=spec.seed, shuffle=spec.data.shuffle, state=state)
        except ValueError as error:
            raise ControllerError(f"the run cannot go on behind prompt {last.group_id}: {error}") from error
        self._asked = set(self._requeued)
        self._repeats = decided.repeats
        self._drawn = number_of(last.group_id) + 1

    async def requeue(self, facts: GroupFacts, epoch: int) -> None:
        """Issue the prompt of a failed group once more, under a new number, before any that is new. The failed group
        stays failed in the ledger. Asked twice is as asked once.

        Raises NotRequeued, Fenced.
        """
        if why := refusal(facts):
            raise NotRequeued(f"group {facts.record.group_id} is not issued once more: {why}")
        task = facts.record.task
        try:
            item = self._frontier.item(task.epoch, task.cursor)
        except ValueError as error:
            raise NotRequeued(f"group {task.group_id} is not issued once more: {error}") from error
        if task.group_id in self._asked:
            return
        self._asked.add(task.group_id)
        try:
            await self._bus.decisions.requeue(IssuedPrompt(task.group_id, task.epoch, task.cursor), epoch)
        except BusError:
            self._asked.discard(task.group_id)
            raise
        self._requeued[task.group_id] = item

    @property
    def rested(self) -> int:
        """Places of the data's order that were left out so far: with the prompts issued they are all up to here. A
        failed group's prompt that was issued once more has no place of its own."""
        epoch, cursor = self._frontier.state()
        return epoch * len(self._frontier) + cursor - (self._drawn - self._repeats)

    @property
    def waiting(self) -> bool:
        """Prompts were drawn that Redis did not take yet."""
        return bool(self._waiting)

    async def issue(self, count: int, version: int, epoch: int) -> None:
        """Draw and issue `count` prompts under the published step `version`. Raises Fenced."""
        self._waiting = [self._draw(version) for _ in range(count)]
        for task in self._waiting:
            self._pacing.issued(task.group_id, number_of(task.group_id))
        await self.send(epoch)

    async def send(self, epoch: int) -> None:
        """Issue what was drawn; where Redis is full, the same prompts are tried at the next call. Raises Fenced."""
        try:
            await self._bus.groups.issue(self._waiting, epoch)
        except BusFull as error:
            if not self._told_full:
                await self._emit(Alert(cause="redis_full", message=f"prompts wait until memory is free: {error}"))
            self._told_full = True
        else:
            self._waiting, self._told_full = [], False

    def _draw(self, version: int) -> pb.PromptTask:
        failed = ""
        if self._again:
            prompt, item = self._again.popleft()
            number, failed = number_of(prompt.group_id), prompt.requeued_from
        elif self._requeued:
            failed = next(iter(self._requeued))
            number, item = self._drawn, self._requeued.pop(failed)
            self._repeats += 1
        else:
            number, item = self._drawn, self._next()
        self._drawn = max(self._drawn, number + 1)
        row = self._dataset[item.row]
        return pb.PromptTask(
            group_id=f"g{number:010d}",
            epoch=item.epoch,
            cursor=item.cursor,
            row_id=row.row_id,
            prompt=row.prompt,
            gold=row.gold,
            grader=row.grader or self._spec.reward.grader,
            group_size=self._spec.sampling.group_size,
            issued_version=version,
            requeued_from=failed,
        )

    def _next(self) -> FrontierItem:
        """The next whose row does not rest; there is one within `rest_epochs` + 1 epochs."""
        while True:
            item = self._frontier.next()
            if not self._resting.rests(self._dataset.row_id(item.row), item.epoch):
                return item


def refusal(facts: GroupFacts) -> str:
    """Why the group's prompt cannot be issued once more; empty: it can."""
    record = facts.record
    if record.task.evaluation:
        return f"it belongs to an evaluation of {record.task.evaluation!r}, which has counted it"
    if record.state != GroupState.FAILED:
        return f"it is {record.state}, and only a failed one is"
    if record.reason in HOPELESS:
        return f"it would fail again, for {explain_failure(record.reason)}"
    if facts.requeued_as:
        return f"that was done before, as {facts.requeued_as}"
    return ""


def number_of(group_id: str) -> int:
    """The place of a group's prompt among all that the run has drawn."""
    return int(group_id[1:])
