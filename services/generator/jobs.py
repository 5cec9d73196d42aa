"""What a generator does with one prompt that it has taken: requests to the engine, tries, and the end of it."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

from dapo.bus import RETRIES, Delivery, Outcome, attempt_number
from dapo.bus.failures import FailureReason
from dapo.bus.roles import GeneratorBus
from dapo.v1 import messages_pb2 as pb
from services.generator.engine.client import SamplingParams
from services.generator.engine.responses import NOTHING, EngineError, Prefix
from services.generator.engine.supervisor import EngineSupervisor
from services.generator.instruments import REQUEST_SECONDS, RESPONSE_TOKENS, RESPONSES
from services.generator.membership import Membership
from services.generator.salvage import Salvage, Unfinished, grown
from services.generator.writer import CompletionWriter, FinishedResponse

log = logging.getLogger(__name__)

_RETRY_PAUSE_S = 0.5


@dataclass(frozen=True)
class PromptJob:
    """A delivered prompt and its token ids."""

    delivery: Delivery
    task: pb.PromptTask
    prompt: Sequence[int]


@dataclass(frozen=True, eq=False)
class _Work:
    """A job under way."""

    job: PromptJob
    unfinished: Unfinished = field(default_factory=Unfinished)
    stored: dict[int, Prefix] = field(default_factory=dict)
    """What the bus has of them, by index."""

    def unstored(self) -> dict[int, Prefix]:
        """What is to be kept and is not, by index."""
        prefixes = self.unfinished.prefixes()
        return {index: prefix for index, prefix in prefixes.items() if self.stored.get(index) != prefix}


def request_id(group_id: str, index: int, attempt: int) -> str:
    """Of fixed width: SGLang aborts every request whose id starts with the given one, so no id may be a prefix."""
    return f"{group_id}-{index:04d}-{attempt:04d}"


class JobRunner:
    """Generates and writes what the groups of a generator's prompts lack.

    Invariant: `run` returns once the prompt's group has all its responses, was closed or failed with a reason, or the
    prompt was handed back to its stream. Responses that were written by then stay; what unfinished ones have goes on in
    the next try, and is kept (Salvage) before the prompt is handed back. Of jobs that were cancelled `leave` keeps it.

    Each delivery of a prompt has RETRIES tries with growing pauses while the engine is well; where that is lost the
    prompt is handed back, and so it is where the weights that it needs do not come (Membership.wait_step), or where
    weight updates have interrupted it so often.
    """

    def __init__(
        self,
        bus: GeneratorBus,
        stream: str,
        worker_id: str,
        supervisor: EngineSupervisor,
        membership: Membership,
        writer: CompletionWriter,
        salvage: Salvage,
        sampling: SamplingParams,
        ready: Callable[[int], Awaitable[bool]],
        *,
        one_version: bool,
    ) -> None:
        """`ready`: returns True once weights of a version or later are served, False where the engine was lost
        or those do not come. `one_version`: a response that was kept goes on with the same weights only."""
        self._bus = bus
        self._stream = stream
        self._id = worker_id
        self._supervisor = supervisor
        self._membership = membership
        self._writer = writer
        self._salvage = salvage
        self._sampling = sampling
        self._ready = ready
        self._one_version = one_version
        self._under_way: dict[str, _Work] = {}
        self.generating = 0
        """Jobs of which something is generated now."""

    async def fail(self, group_id: str, delivery: Delivery, reason: FailureReason, detail: str) -> None:
        log.warning("group %s failed: %s: %s", group_id, reason, detail, extra={"group": group_id})
        await self._bus.groups.fail(group_id, reason, detail, stream=self._stream, delivery=delivery)

    async def run(self, job: PromptJob) -> None:
        work = self._under_way[job.delivery.message_id] = _Work(job)
        await self._run(work)
        del self._under_way[job.delivery.message_id]

    async def save(self) -> None:
        """Save what responses have that go on, for the case that this process is killed; drop what is not needed."""
        for work in list(self._under_way.values()):
            sizes, group_id = work.unfinished.sizes(), work.job.task.group_id
            due = [index for index, tokens in sizes.items() if grown(tokens, len(work.stored.get(index, NOTHING)))]
            work.stored.update(await self._salvage.save(group_id, work.job.prompt, work.unfinished.prefixes(due)))
            finished = [index for index in work.stored if index not in work.unfinished.sizes()]
            await self._salvage.forget(group_id, finished)
            for index in finished:
                work.stored.pop(index, None)

    async def leave(self) -> None:
        """Keep what the responses have whose jobs were cancelled."""
        jobs = [(work.job, work.unstored()) for work in self._under_way.values()]
        await self._salvage.keep_all({job.task.group_id: (job.prompt, prefixes) for job, prefixes in jobs if prefixes})

    async def _run(self, work: _Work) -> None:
        job, group_id = work.job, work.job.task.group_id
        missing = await self._missing(job)
        await self._find(work, missing)
        failures, failure = 0, "responses were aborted"
        for retry in range(RETRIES):
            if not missing:
                break
            await self._membership.wait_settled()
            # A member that the learner had dropped may still serve older weights than those published.
            if not await self._ready(job.task.issued_version):
                return await self._hand_back(work, lost=False)
            engine = self._supervisor.engine
            interruptions = engine.interruptions
            try:
                missing = await self._generate(work, missing, attempt_number(job.delivery.attempt, retry))
            except EngineError as error:
                failure = str(error)
                log.warning("group %s, try %d: %s", group_id, retry + 1, failure, extra={"group": group_id})
                if await self._supervisor.is_lost(engine, error):
                    return await self._hand_back(work, lost=True)
                missing = await self._bus.groups.missing_indices(group_id)
            interrupted = engine.interruptions != interruptions
            work.unfinished.end(well=interrupted)
            if missing and not interrupted:
                failures += 1
                await asyncio.sleep(_RETRY_PAUSE_S * failures)
        if not missing:
            await self._salvage.forget(group_id, sorted(work.stored))
        elif failures < RETRIES:
            await self._hand_back(work, lost=False)
        else:
            detail = f"{RETRIES} tries; the last: {failure}"
            await self.fail(group_id, job.delivery, FailureReason.GENERATION_FAILED, detail)

    async def _find(self, work: _Work, missing: Sequence[int]) -> None:
        """Begin with what earlier deliveries have left."""
        job = work.job
        if job.delivery.attempt > 1 and missing:
            found = await self._salvage.find(job.task.group_id, job.prompt, missing, job.delivery.losses)
            work.stored.update(found)
            work.unfinished.found(found)

    async def _hand_back(self, work: _Work, *, lost: bool) -> None:
        group_id = work.job.task.group_id
        await self._salvage.keep(group_id, work.job.prompt, work.unstored())
        await self._salvage.forget(group_id, sorted(work.stored.keys() - work.unfinished.sizes().keys()))
        await self._bus.streams.hand_back(self._stream, self._id, work.job.delivery, lost=lost)

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

    async def _generate(self, work: _Work, indices: Sequence[int], attempt: int) -> list[int]:
        """Generate all `indices` in one request. Returns the indices still missing; none if the group was closed."""
        job, group_id = work.job, work.job.task.group_id
        left = {request_id(group_id, index, attempt): index for index in indices}
        writes: list[asyncio.Future[Outcome]] = []
        aborted = False
        began = time.monotonic()
        self.generating += 1
        self._membership.request_started(len(left))
        try:
            sampling = self._sampling_of(job.task)
            version = self._membership.version if self._one_version else None
            begun = work.unfinished.begin(left, sampling.max_new_tokens, version)
            async with aclosing(self._supervisor.engine.generate(begun, job.prompt, sampling)) as responses:
                async for response, new_tokens in responses:
                    self._membership.add_tokens(new_tokens)
                    if response.finish is None:
                        continue
                    self._membership.request_ended()
                    RESPONSES.labels(response.finish).inc()
                    index = left.pop(response.rid)
                    if response.finish != "abort":
                        work.unfinished.finished(index)
                        REQUEST_SECONDS.observe(time.monotonic() - began)
                        RESPONSE_TOKENS.observe(len(response.ids))
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
            self.generating -= 1
            self._membership.request_ended(len(left))
        await asyncio.gather(*writes)
        # Also where all were written: a response may have been withdrawn by then.
        return await self._bus.groups.missing_indices(group_id)


def is_closed(write: asyncio.Future[Outcome]) -> bool:
    return write.result() is Outcome.CLOSED
