"""What a generator does with one prompt that it has taken: requests to the engine, tries, and the end of it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from dapo.bus import RETRIES, Delivery, Outcome, attempt_number
from dapo.bus.failures import FailureReason
from dapo.bus.roles import GeneratorBus
from dapo.v1 import messages_pb2 as pb
from services.generator.engine.client import SamplingParams
from services.generator.engine.responses import EngineError
from services.generator.engine.supervisor import EngineSupervisor
from services.generator.membership import Membership
from services.generator.writer import CompletionWriter, FinishedResponse

log = logging.getLogger(__name__)

_RETRY_PAUSE_S = 0.5


@dataclass(frozen=True)
class PromptJob:
    """A delivered prompt and its token ids."""

    delivery: Delivery
    task: pb.PromptTask
    prompt: Sequence[int]


def request_id(group_id: str, index: int, attempt: int) -> str:
    """Of fixed width: SGLang aborts every request whose id starts with the given one, so no id may be a prefix."""
    return f"{group_id}-{index:04d}-{attempt:04d}"


class JobRunner:
    """Generates and writes what the groups of a generator's prompts lack.

    Invariant: `run` returns once the prompt's group has all its responses, was closed or failed with a reason, or the
    prompt was handed back to its stream. Responses that were written by then stay.

    Each delivery of a prompt has RETRIES tries with growing pauses while the engine is well; where that is lost the
    prompt is handed back, and so it is where the weights that it needs do not come (Membership.wait_step).
    """

    def __init__(
        self,
        bus: GeneratorBus,
        stream: str,
        worker_id: str,
        supervisor: EngineSupervisor,
        membership: Membership,
        writer: CompletionWriter,
        sampling: SamplingParams,
        ready: Callable[[int], Awaitable[bool]],
    ) -> None:
        """`ready`: returns True once weights of a version or later are served, False where the engine was lost
        or those do not come."""
        self._bus = bus
        self._stream = stream
        self._id = worker_id
        self._supervisor = supervisor
        self._membership = membership
        self._writer = writer
        self._sampling = sampling
        self._ready = ready

    async def fail(self, group_id: str, delivery: Delivery, reason: FailureReason, detail: str) -> None:
        log.warning("group %s failed: %s: %s", group_id, reason, detail)
        await self._bus.groups.fail(group_id, reason, detail, stream=self._stream, delivery=delivery)

    async def run(self, job: PromptJob) -> None:
        group_id = job.task.group_id
        missing = await self._missing(job)
        failure = "responses were aborted"
        for retry in range(RETRIES):
            if not missing:
                return
            # A member that the learner had dropped may still serve older weights than those published.
            if not await self._ready(job.task.issued_version):
                return await self._hand_back(job, lost=False)
            engine = self._supervisor.engine
            try:
                missing = await self._generate(job, missing, attempt_number(job.delivery.attempt, retry))
            except EngineError as error:
                failure = str(error)
                log.warning("group %s, try %d: %s", group_id, retry + 1, failure)
                if await self._supervisor.is_lost(engine, error):
                    return await self._hand_back(job, lost=True)
                missing = await self._bus.groups.missing_indices(group_id)
            if missing:
                await asyncio.sleep(_RETRY_PAUSE_S * (retry + 1))
        if missing:
            detail = f"{RETRIES} tries; the last: {failure}"
            await self.fail(group_id, job.delivery, FailureReason.GENERATION_FAILED, detail)

    async def _hand_back(self, job: PromptJob, *, lost: bool) -> None:
        await self._bus.streams.hand_back(self._stream, self._id, job.delivery, lost=lost)

    async def _missing(self, job: PromptJob) -> list[int]:
        if job.delivery.attempt == 1:
            return list(range(job.task.group_size))
        return await self._bus.groups.missing_indices(job.task.group_id)

    def _sampling_of(self, task: pb.PromptTask) -> SamplingParams:
        """The task's own parameters where it has some (evaluations), else the spec's."""
        if not task.HasField("sampling"):
            return self._sampling
        wanted = task.sampling
        return replace(
            self._sampling,
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            max_new_tokens=wanted.max_response_tokens,
        )

    async def _generate(self, job: PromptJob, indices: Sequence[int], attempt: int) -> list[int]:
        """Generate all `indices` in one request. Returns the indices still missing; none if the group was closed."""
        group_id = job.task.group_id
        left = {request_id(group_id, index, attempt): index for index in indices}
        writes: list[asyncio.Future[Outcome]] = []
        aborted = False
        self._membership.request_started(len(left))
        try:
            sampling = self._sampling_of(job.task)
            async with aclosing(self._supervisor.engine.generate(list(left), job.prompt, sampling)) as responses:
                async for response, new_tokens in responses:
                    self._membership.add_tokens(new_tokens)
                    if response.finish is None:
                        continue
                    self._membership.request_ended()
                    index = left.pop(response.rid)
                    if response.finish != "abort":
                        writes.append(
                            self._writer.submit(FinishedResponse(group_id, index, attempt, job.prompt, response))
                        )
                    if left and not aborted and any(write.done() and is_closed(write) for write in writes):
                        aborted = True
                        await self._supervisor.engine.abort(list(left))
        except EngineError:
            # Responses that finished before the stream broke off are written all the same.
            await asyncio.gather(*writes)
            raise
        finally:
            self._membership.request_ended(len(left))
        await asyncio.gather(*writes)
        # Also where all were written: a response may have been withdrawn by then.
        return await self._bus.groups.missing_indices(group_id)


def is_closed(write: asyncio.Future[Outcome]) -> bool:
    return write.result() is Outcome.CLOSED
