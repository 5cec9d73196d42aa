"""Takes completions from the bus, has them graded, and writes each grade with the acknowledgement of its completion.

Invariant: every completion delivered here ends as a grade, or its group as failed with a reason; neither is lost when
this process dies, for nothing is acknowledged before its effect.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, TypeVar

from dapo.algo.batches import is_truncated
from dapo.algo.shaping import shaped_reward
from dapo.algo.text_statistics import TextStatistics
from dapo.bus import Bus, BusFull, BusUnavailable, Delivery, GroupState, UnknownGroup
from dapo.contracts.prompts import prompt_text
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.verifier.graders import Verdict, wrong
from services.verifier.grading.alarm import FailureAlarm
from services.verifier.grading.dispatch import Grading
from services.verifier.grading.pool import GradingRequest

log = logging.getLogger(__name__)
T = TypeVar("T")

ROLE = "verifier"
STREAM = "completions"
_BATCH = 256
_CONCURRENT_BATCHES = 4
"""So that a hanging grading holds up its own batch alone."""
_BATCHES_OUTSIDE = 32
"""Those that wait for services; what is graded here goes on beside them."""
_BLOCK_S = 2.0
_HEARTBEAT_S = 2.5
_HEARTBEAT_TTL_S = 10.0
_CLAIM_S = 3.0
_RETRY_S = 1.0
_MAX_ATTEMPTS = 5
_OPEN = (GroupState.ISSUED, GroupState.GENERATED)


class _Item(NamedTuple):
    delivery: Delivery
    completion: pb.Completion


class _Gradable(NamedTuple):
    item: _Item
    request: GradingRequest


class Verifier:
    """One verifier of a run. Any number may work beside each other."""

    def __init__(self, bus: Bus, grading: Grading, spec: RunSpec, worker_id: str) -> None:
        self._bus = bus
        self._grading = grading
        self._spec = spec
        self._worker_id = worker_id
        self._room = asyncio.Semaphore(_CONCURRENT_BATCHES)
        self._room_outside = asyncio.Semaphore(_BATCHES_OUTSIDE)
        self._alarm = FailureAlarm(time.monotonic)

    async def run(self) -> None:
        """Until cancelled. What was not yet acknowledged then is left for another verifier to claim."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._grading.run())
            group.create_task(self._every(_HEARTBEAT_S, self._beat))
            group.create_task(self._every(_CLAIM_S, lambda: self._take(group, self._claim)))
            while True:
                await self._take(group, self._consume)

    async def _beat(self) -> None:
        await self._persist(lambda: self._bus.heartbeat(ROLE, self._worker_id, _HEARTBEAT_TTL_S))

    async def _consume(self) -> list[Delivery]:
        return await self._bus.consume(STREAM, self._worker_id, count=_BATCH, block_s=_BLOCK_S)

    async def _claim(self) -> list[Delivery]:
        return await self._bus.claim_dead(STREAM, ROLE, self._worker_id, count=_BATCH)

    async def _every(self, period_s: float, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            await action()
            await asyncio.sleep(period_s)

    async def _take(self, group: asyncio.TaskGroup, source: Callable[[], Awaitable[list[Delivery]]]) -> None:
        """Start on a batch from `source` as soon as there is room for one."""
        await self._room.acquire()
        deliveries: list[Delivery] = []
        try:
            deliveries = await self._persist(source)
        finally:
            if not deliveries:
                self._room.release()
        if deliveries:
            group.create_task(self._handle_in_room(group, deliveries))

    async def _handle_in_room(self, group: asyncio.TaskGroup, deliveries: Sequence[Delivery]) -> None:
        """Those that wait for a service leave this room, so that a slow one does not keep what is graded here out."""
        try:
            gradable = await self._persist(lambda: self._read(deliveries))
            await self._conclude([one for one in gradable if self._grading.is_local(one.request.grader)])
            outside = [one for one in gradable if not self._grading.is_local(one.request.grader)]
            if outside:
                await self._room_outside.acquire()
                group.create_task(self._conclude_outside(outside))
        finally:
            self._room.release()

    async def _conclude_outside(self, gradable: Sequence[_Gradable]) -> None:
        try:
            await self._conclude(gradable)
        finally:
            self._room_outside.release()

    async def _persist(self, action: Callable[[], Awaitable[T]]) -> T:
        """Do it again while the bus is out of reach or full: every action here may be repeated."""
        while True:
            try:
                return await action()
            except (BusUnavailable, BusFull) as error:
                log.warning("waiting for the bus: %s", error)
                await asyncio.sleep(_RETRY_S)

    async def _read(self, deliveries: Sequence[Delivery]) -> list[_Gradable]:
        """What of `deliveries` can be graded; all else is finished here."""
        items = []
        for delivery in deliveries:
            item = _Item(delivery, pb.Completion.FromString(delivery.data))
            if delivery.attempt > _MAX_ATTEMPTS:
                await self._fail(item, "too_many_attempts", f"delivered {delivery.attempt} times without an effect")
            else:
                items.append(item)
        return await self._fetch(items)

    async def _conclude(self, gradable: Sequence[_Gradable]) -> None:
        """Grade once, and write for as long as it takes."""
        verdicts, statistics = await asyncio.gather(
            self._grading.grade([one.request for one in gradable]),
            self._grading.pool.measure([one.request.text for one in gradable], self._spec.metrics.reflection_patterns),
        )
        await self._persist(lambda: self._write(gradable, verdicts, statistics))
        alert = self._alarm.observe(
            (one.request.grader, verdict) for one, verdict in zip(gradable, verdicts, strict=True)
        )
        if alert:
            message = f"{self._worker_id}: {alert}"
            log.warning("%s", message)
            event = {"worker_id": self._worker_id, "message": message}
            await self._persist(lambda: self._bus.emit_event("alert", event))

    async def _write(
        self,
        gradable: Sequence[_Gradable],
        verdicts: Sequence[Verdict],
        statistics: Sequence[TextStatistics | None],
    ) -> None:
        """May be repeated after any failure."""
        grades = []
        for one, verdict, measured in zip(gradable, verdicts, statistics, strict=True):
            if verdict.failed and self._spec.reward.grader_failure == "fail_group":
                await self._fail(one.item, "grader_failed", f"{one.request.grader}: {verdict.reason}")
            else:
                grades.append((one.item.delivery, self._grade(one.item.completion, verdict, measured)))
        await self._bus.write_grades(grades)

    async def _fetch(self, items: Sequence[_Item]) -> list[_Gradable]:
        """Items with text and task. Those without are finished here."""
        if not items:
            return []
        texts, tasks = await asyncio.gather(
            self._bus.get_payloads([item.completion.text_key for item in items]), self._read_tasks(items)
        )
        gradable = []
        for item, text in zip(items, texts, strict=True):
            task = tasks.get(item.completion.group_id)
            if task is None:
                await self._drop(item)
            elif text is None:
                await self._without_text(item)
            else:
                request = GradingRequest(
                    task.grader, text.decode(errors="replace"), task.gold, prompt_text(task.prompt)
                )
                gradable.append(_Gradable(item, request))
        return gradable

    async def _read_tasks(self, items: Sequence[_Item]) -> dict[str, pb.PromptTask]:
        group_ids = list(dict.fromkeys(item.completion.group_id for item in items))
        try:
            return dict(zip(group_ids, await self._bus.read_tasks(group_ids), strict=True))
        except UnknownGroup:
            found = {}
            for group_id in group_ids:
                try:
                    found[group_id] = await self._bus.read_task(group_id)
                except UnknownGroup:
                    continue
            return found

    async def _without_text(self, item: _Item) -> None:
        """A closed group has lost its payloads, and its completion is only acknowledged; an open one cannot go on."""
        group_id, text_key = item.completion.group_id, item.completion.text_key
        try:
            is_open = (await self._bus.read_group(group_id)).state in _OPEN
        except UnknownGroup:
            is_open = False
        if is_open:
            await self._fail(item, "payload_missing", f"no text under {text_key}")
        else:
            await self._drop(item)

    async def _drop(self, item: _Item) -> None:
        """Acknowledge a completion that nobody wants: the bus finds its group closed or its grade written before."""
        await self._bus.write_grades([(item.delivery, self._grade(item.completion, wrong("group_closed"), None))])

    async def _fail(self, item: _Item, reason: str, detail: str) -> None:
        group_id = item.completion.group_id
        log.warning("group %s failed: %s (%s)", group_id, reason, detail)
        await self._bus.fail_group(
            group_id, reason, f"response {item.completion.index}: {detail}", stream=STREAM, delivery=item.delivery
        )

    def _grade(self, completion: pb.Completion, verdict: Verdict, measured: TextStatistics | None) -> pb.Grade:
        score = verdict.score if self._spec.reward.base == "score" else float(verdict.correct)
        shaped = shaped_reward(score, completion.response_tokens, self._spec, truncated=is_truncated(completion))
        return pb.Grade(
            completion=completion,
            correct=verdict.correct,
            score=verdict.score,
            overlong_penalty=shaped.penalty,
            reward=shaped.reward,
            reason=verdict.reason,
            extracted=verdict.extracted,
            parts=verdict.parts,
            **(measured._asdict() if measured else {}),
        )
