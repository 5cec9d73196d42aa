"""The verifier process: takes completions off the bus, has them graded, and writes the grades."""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from dapo.algo.batches import is_truncated
from dapo.algo.shaping import shaped_reward
from dapo.algo.text_statistics import TextStatistics
from dapo.bus import BusFull, Delivery, Refill, UnknownGroup
from dapo.bus.failures import FailureReason
from dapo.bus.roles import VerifierBus
from dapo.contracts.events import Alert
from dapo.contracts.prompts import begun_response, prompt_text
from dapo.contracts.verdicts import UNAVAILABLE
from dapo.spec import RunSpec
from dapo.spec.tree.graders import SERVICE_PATIENCE_S, SERVICE_PAUSE_S
from dapo.v1 import messages_pb2 as pb
from dapo.worker import leave_stream
from services.verifier.graders import Verdict, wrong
from services.verifier.grading.dispatch import Grading
from services.verifier.grading.failure_alert import FailureAlert
from services.verifier.instruments import BATCHES_RUNNING, count_failures, count_graded, observe_wait
from services.verifier.request import GradingRequest

log = logging.getLogger(__name__)
T = TypeVar("T")

ROLE = "verifier"
STREAM = "completions"
_BATCH = 256
_CONCURRENT_BATCHES = 4
"""Several, so that a grading that hangs holds up its own batch only."""
_CONCURRENT_REMOTE_BATCHES = 32
"""Batches that wait for remote graders, beside the others."""
_BLOCK_S = 1.0
_HEARTBEAT_S = 2.5
_CLAIM_S = 3.0
_RETRY_S = 1.0


class _Item(NamedTuple):
    delivery: Delivery
    completion: pb.Completion


class _Gradable(NamedTuple):
    """A completion with its text and gold answer."""

    item: _Item
    request: GradingRequest
    votes: bool
    """It belongs to an evaluation."""


class _Graded(NamedTuple):
    gradable: _Gradable
    verdict: Verdict
    measured: TextStatistics | None
    answer_class: str


def _named(one: _Graded) -> tuple[str, Verdict]:
    """With the name of its grader."""
    return one.gradable.request.grader, one.verdict


class Verifier:
    """One verifier of a run; any number of them share the completion stream.

    Parts, each a task of `run`:
    - `_grading` (Grading): the grading processes and the clients of remote graders;
    - `_beat`: heartbeat every 2.5 s;
    - `_claim`: completions of dead verifiers, every 3 s;
    - `_consume`: new completions, in batches. A batch is read (`_fetch`), graded and written (`_conclude`); the part of
      it that waits for remote graders goes on as a batch of its own.
    `_alert` (FailureAlert) tells when too many gradings fail.

    Invariants:
    - every completion that was delivered ends as a grade, or is withdrawn and generated again, or its group ends as
      failed with a reason. Nothing is acknowledged before its effect, so what a killed verifier held is graded by
      another; one that is stopped hands it back;
    - a grade is about the response. Where the text is lost another is generated, three times at most. A remote grader
      that is out of reach is tried again for half an hour, then the group fails, as it does at once where a local one
      cannot be set up. How often a completion was delivered says nothing: whatever a text can break runs in grading
      processes, so a verifier that dies is no fault of what it held.

    Nothing survives a restart, and nothing needs to. While the bus is full, every action waits and is repeated, without
    limit; each grading has the deadline of its grader.
    """

    def __init__(self, bus: VerifierBus, grading: Grading, spec: RunSpec, worker_id: str) -> None:
        self._bus = bus
        self._grading = grading
        self._spec = spec
        self._worker_id = worker_id
        self._slots = asyncio.Semaphore(_CONCURRENT_BATCHES)
        self._remote_slots = asyncio.Semaphore(_CONCURRENT_REMOTE_BATCHES)
        self._alert = FailureAlert(time.monotonic)

    async def run(self) -> None:
        """Grade until cancelled. Completions that are not acknowledged by then are handed back."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._grading.run())
                group.create_task(self._every(_HEARTBEAT_S, self._beat))
                group.create_task(self._every(_CLAIM_S, lambda: self._take(group, self._claim)))
                while True:
                    await self._take(group, self._consume)
        finally:
            await leave_stream(self._bus.streams, STREAM, self._worker_id)

    async def _beat(self) -> None:
        await self._persist(lambda: self._bus.registry.beat(ROLE, self._worker_id))

    async def _consume(self) -> list[Delivery]:
        taken = await self._bus.streams.consume(STREAM, self._worker_id, count=_BATCH, block_s=_BLOCK_S)
        observe_wait(delivery.message_id for delivery in taken)
        return taken

    async def _claim(self) -> list[Delivery]:
        return await self._bus.streams.claim_dead(STREAM, ROLE, self._worker_id, count=_BATCH)

    async def _every(self, period_s: float, action: Callable[[], Awaitable[None]]) -> None:
        while True:
            await action()
            await asyncio.sleep(period_s)

    async def _take(self, group: asyncio.TaskGroup, source: Callable[[], Awaitable[list[Delivery]]]) -> None:
        """Wait until fewer than _CONCURRENT_BATCHES are worked on, then start on a batch from `source`."""
        await self._slots.acquire()
        deliveries: list[Delivery] = []
        try:
            deliveries = await self._persist(source)
        finally:
            if not deliveries:
                self._slots.release()
        if deliveries:
            group.create_task(self._handle_batch(group, deliveries))

    async def _handle_batch(self, group: asyncio.TaskGroup, deliveries: Sequence[Delivery]) -> None:
        """Grade a batch. Requests to remote graders go on in a slot of their own, so that they hold up no others."""
        try:
            BATCHES_RUNNING.inc()
            gradable = await self._persist(lambda: self._fetch(deliveries))
            await self._conclude([one for one in gradable if self._grading.is_local(one.request.grader)])
            remote = [one for one in gradable if not self._grading.is_local(one.request.grader)]
            if remote:
                await self._remote_slots.acquire()
                group.create_task(self._conclude_remote(remote))
        finally:
            BATCHES_RUNNING.dec()
            self._slots.release()

    async def _conclude_remote(self, gradable: Sequence[_Gradable]) -> None:
        """Conclude a batch in the slot that was taken for it. What is left for an absent grader waits without one."""
        deadline = math.inf
        while gradable:
            try:
                gradable = await self._conclude(gradable, patient=time.monotonic() < deadline)
            finally:
                self._remote_slots.release()
            if gradable:
                deadline = min(deadline, time.monotonic() + SERVICE_PATIENCE_S)
                await asyncio.sleep(SERVICE_PAUSE_S)
                await self._remote_slots.acquire()

    async def _persist(self, action: Callable[[], Awaitable[T]]) -> T:
        """Repeat `action` until the bus is not full. Every action here may be repeated."""
        while True:
            try:
                return await action()
            except BusFull as error:
                log.warning("waiting for the bus: %s", error)
                await asyncio.sleep(_RETRY_S)

    async def _conclude(self, gradable: Sequence[_Gradable], *, patient: bool = False) -> list[_Gradable]:
        """Grade once; write, repeatedly if the bus fails.

        Returns those whose grader was out of reach, where `patient`; else their groups fail.
        """
        requests = [one.request for one in gradable]
        verdicts, statistics = await asyncio.gather(
            self._grading.grade(requests),
            self._grading.pool.measure([one.text for one in requests], self._spec.metrics.reflection_patterns),
        )
        classes = await self._classify(gradable, verdicts)
        graded = [_Graded(*one) for one in zip(gradable, verdicts, statistics, classes, strict=True)]
        ready = [one for one in graded if not (patient and one.verdict.reason == UNAVAILABLE)]
        await self._persist(partial(self._write, ready))
        count_graded(map(_named, ready))
        await self._watch(graded)
        return [one.gradable for one in graded if patient and one.verdict.reason == UNAVAILABLE]

    async def _watch(self, graded: Sequence[_Graded]) -> None:
        """Tell when too many gradings fail."""
        count_failures(map(_named, graded))
        alert = self._alert.observe(map(_named, graded))
        if alert:
            message = f"{self._worker_id}: {alert}"
            log.warning("%s", message)
            await self._persist(lambda: self._bus.runs.emit(Alert(worker_id=self._worker_id, message=message)))

    async def _classify(self, gradable: Sequence[_Gradable], verdicts: Sequence[Verdict]) -> list[str]:
        """Classes of the answers in evaluations, whose responses vote; empty for all others."""
        chosen = [index for index, one in enumerate(gradable) if one.votes]
        found = await self._grading.classify(
            [gradable[index].request for index in chosen], [verdicts[index] for index in chosen]
        )
        classes = dict(zip(chosen, found, strict=True))
        return [classes.get(index, "") for index in range(len(gradable))]

    async def _write(self, graded: Sequence[_Graded]) -> None:
        """Write the grades, and fail groups where there can be none. May be repeated after any failure."""
        grades = []
        for one in graded:
            item, verdict, grader = one.gradable.item, one.verdict, one.gradable.request.grader
            if verdict.reason == UNAVAILABLE:
                await self._fail(item, FailureReason.GRADER_UNAVAILABLE, f"{grader}: {verdict.extracted}")
            elif verdict.failed and self._spec.reward.grader_failure == "fail_group":
                await self._fail(item, FailureReason.GRADER_FAILED, f"{grader}: {verdict.reason}")
            else:
                grades.append((item.delivery, self._grade(item.completion, verdict, one.measured, one.answer_class)))
        await self._bus.groups.write_grades(grades)

    async def _fetch(self, deliveries: Sequence[Delivery]) -> list[_Gradable]:
        """Those whose text and task exist. All others are refilled, failed or acknowledged here."""
        items = [_Item(delivery, pb.Completion.FromString(delivery.data)) for delivery in deliveries]
        texts, tasks = await asyncio.gather(
            self._bus.payloads.get([item.completion.text_key for item in items]), self._read_tasks(items)
        )
        gradable = []
        for item, text in zip(items, texts, strict=True):
            task = tasks.get(item.completion.group_id)
            if task is None:
                await self._drop(item)
            elif text is None:
                await self._refill(item)
            else:
                request = GradingRequest(
                    task.grader,
                    text.decode(errors="replace"),
                    task.gold,
                    prompt_text(task.prompt),
                    begun_response(task.prompt, item.completion.prompt_end),
                )
                gradable.append(_Gradable(item, request, bool(task.evaluation)))
        return gradable

    async def _read_tasks(self, items: Sequence[_Item]) -> dict[str, pb.PromptTask]:
        group_ids = list(dict.fromkeys(item.completion.group_id for item in items))
        try:
            return dict(zip(group_ids, await self._bus.groups.read_tasks(group_ids), strict=True))
        except UnknownGroup:
            found = {}
            for group_id in group_ids:
                try:
                    found[group_id] = await self._bus.groups.read_task(group_id)
                except UnknownGroup:
                    continue
            return found

    async def _refill(self, item: _Item) -> None:
        """Have a response whose text is lost generated again. A closed group no longer has texts."""
        if await self._bus.groups.refill(item.delivery) == Refill.EXHAUSTED:
            detail = f"no text under {item.completion.text_key}, after all refills"
            await self._fail(item, FailureReason.PAYLOAD_MISSING, detail)

    async def _drop(self, item: _Item) -> None:
        """Acknowledge a completion of a closed group: the bus ignores its grade."""
        await self._bus.groups.write_grades(
            [(item.delivery, self._grade(item.completion, wrong("group_closed"), None))]
        )

    async def _fail(self, item: _Item, reason: FailureReason, detail: str) -> None:
        group_id = item.completion.group_id
        log.warning("group %s failed: %s (%s)", group_id, reason, detail, extra={"group": group_id})
        await self._bus.groups.fail(
            group_id, reason, f"response {item.completion.index}: {detail}", stream=STREAM, delivery=item.delivery
        )

    def _grade(
        self, completion: pb.Completion, verdict: Verdict, measured: TextStatistics | None, answer_class: str = ""
    ) -> pb.Grade:
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
            unclosed_thinking=verdict.unclosed_thinking,
            answer_class=answer_class,
            **(measured._asdict() if measured else {}),
        )
