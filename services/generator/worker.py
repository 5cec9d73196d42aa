"""The generator: prompts in, completions out, beside an engine whose weights change under way.

Invariant: a prompt that this worker took is either fully written, failed with a reason, or still pending in the stream,
where another worker claims it once this one is dead.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from dapo.bus import RETRIES, Bus, Delivery, Outcome, attempt_number
from dapo.bus.keys import EVALUATIONS, PROMPTS
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.generator.engine.client import EngineError, SamplingParams
from services.generator.engine.server import EngineServer
from services.generator.engine.supervisor import EngineSupervisor
from services.generator.tokens import Limits, PromptCodec, PromptError
from services.generator.weights.hold import WeightHold
from services.generator.weights.member import ROLE, Membership
from services.generator.weights.receiver import Receiver
from services.generator.writer import CompletionWriter, Finished

log = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
CLAIM_S = 3.0
BLOCK_S = 1.0
MAX_DELIVERIES = 50
READ_LIMIT = 4
"""Prompts taken at once: few, so that generators that are free at the same time share what is there."""
RETRY_PAUSE_S = 0.5


@dataclass(frozen=True)
class Job:
    """A delivered prompt."""

    delivery: Delivery
    task: pb.PromptTask
    prompt: Sequence[int]


def request_id(group_id: str, index: int, attempt: int) -> str:
    """Of fixed width: the engine aborts by prefix, and no id may be another's."""
    return f"{group_id}-{index:04d}-{attempt:04d}"


class Generator:
    def __init__(
        self,
        bus: Bus,
        spec: RunSpec,
        worker_id: str,
        server: EngineServer,
        codec: PromptCodec,
        *,
        evaluates: bool = False,
    ) -> None:
        """`evaluates`: it takes nothing but the prompts of evaluations, and keeps its weights while it has some."""
        self._bus = bus
        self._evaluates = evaluates
        self._stream = EVALUATIONS if evaluates else PROMPTS
        self._id = worker_id
        self._codec = codec
        sampling = spec.sampling
        self._limits = Limits(spec.data.max_prompt_tokens, sampling.max_response_tokens, codec.context_tokens)
        self._sampling = SamplingParams(sampling.temperature, sampling.max_response_tokens, codec.stop_token_ids)
        resources = spec.resources.generator
        # A group larger than the bound still runs, alone.
        self._slots = max(1, resources.max_running_requests // sampling.group_size)
        self._jobs: set[asyncio.Task[None]] = set()
        self._slot_freed = asyncio.Event()
        self.membership = Membership(
            bus,
            worker_id,
            tensor_parallel=resources.tensor_parallel,
            base_weights=spec.model.path,
            evaluates=evaluates,
        )
        self._hold = WeightHold(self.membership)
        self.supervisor = EngineSupervisor(server, self.membership, fixed_weights=spec.training.steps == 0)
        self._receiver = Receiver(bus, worker_id, self.supervisor, self.membership, self._hold)
        self._writer = CompletionWriter(bus, codec, worker_id)

    async def run(self) -> None:
        """Generate until cancelled; then the engine is dead and the membership withdrawn.

        Raises ServerError when the engine cannot be started, BusError when the bus fails.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat())
                await self._receiver.skip_old()
                await self.supervisor.start()
                tasks.create_task(self.supervisor.watch())
                tasks.create_task(self._receiver.run())
                tasks.create_task(self._writer.run())
                tasks.create_task(self._consume(tasks))
        finally:
            await self.supervisor.stop()
            await self._bus.remove_member(self._id)

    async def _beat(self) -> None:
        while True:
            await self.membership.heartbeat()
            await asyncio.sleep(HEARTBEAT_S)

    async def _consume(self, tasks: asyncio.TaskGroup) -> None:
        claimed_at = -CLAIM_S
        clock = asyncio.get_running_loop().time
        while True:
            await self.membership.serving.wait()
            free = self._slots - len(self._jobs)
            if free <= 0:
                self._slot_freed.clear()
                await self._slot_freed.wait()
                continue
            count = min(free, READ_LIMIT)
            deliveries: list[Delivery] = []
            if clock() - claimed_at >= CLAIM_S:
                claimed_at = clock()
                deliveries = await self._bus.claim_dead(self._stream, ROLE, self._id, count=count)
            if not deliveries:
                deliveries = await self._bus.consume(self._stream, self._id, count=count, block_s=BLOCK_S)
            if not (deliveries or self._jobs):
                await self._hold.release()
            async for job in self._accept(deliveries):
                task = tasks.create_task(self._work(job))
                self._jobs.add(task)
                task.add_done_callback(self._job_done)

    def _job_done(self, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        self._slot_freed.set()

    async def _accept(self, deliveries: Sequence[Delivery]) -> AsyncIterator[Job]:
        """Tokenise; prompts that cannot be generated from fail their groups."""
        if not deliveries:
            return
        tasks = await self._bus.read_tasks([delivery.data.decode() for delivery in deliveries])
        for delivery, task in zip(deliveries, tasks, strict=True):
            try:
                if delivery.attempt > MAX_DELIVERIES:
                    raise PromptError("generation_failed", f"delivered {delivery.attempt} times without success")
                prompt = self._codec.encode(task.prompt)
                self._limits.check(len(prompt))
            except PromptError as error:
                await self._fail(task.group_id, delivery, error.reason, str(error))
            else:
                yield Job(delivery, task, prompt)

    async def _fail(self, group_id: str, delivery: Delivery, reason: str, detail: str) -> None:
        log.warning("group %s failed: %s: %s", group_id, reason, detail)
        await self._bus.fail_group(group_id, reason, detail, stream=self._stream, delivery=delivery)

    async def _work(self, job: Job) -> None:
        """Write every response that the group still lacks, however often the engine breaks off."""
        group_id = job.task.group_id
        missing = await self._missing(job)
        failure = "responses were aborted"
        for retry in range(RETRIES):
            if not missing:
                return
            # Published weights are served by every member, save one that was taken for dead and is still behind.
            await (self._hold.hold if self._evaluates else self.membership.wait_step)(job.task.issued_version)
            try:
                missing = await self._generate(job, missing, attempt_number(job.delivery.attempt, retry))
            except EngineError as error:
                failure = str(error)
                log.warning("group %s, try %d: %s", group_id, retry + 1, failure)
                missing = await self._bus.missing_indices(group_id)
            if missing:
                await asyncio.sleep(RETRY_PAUSE_S * (retry + 1))
        if missing:
            detail = f"{RETRIES} tries; the last: {failure}"
            await self._fail(group_id, job.delivery, "generation_failed", detail)

    async def _missing(self, job: Job) -> list[int]:
        if job.delivery.attempt == 1:
            return list(range(job.task.group_size))
        return await self._bus.missing_indices(job.task.group_id)

    def _sampling_of(self, task: pb.PromptTask) -> SamplingParams:
        """As the spec says for training, or as the task does: evaluations sample in their own way."""
        if not task.HasField("sampling"):
            return self._sampling
        wanted = task.sampling
        return replace(
            self._sampling,
            temperature=wanted.temperature,
            top_p=wanted.top_p,
            max_new_tokens=wanted.max_response_tokens,
        )

    async def _generate(self, job: Job, indices: Sequence[int], attempt: int) -> list[int]:
        """One request for all `indices`; returns those that are still missing, none once the group is closed."""
        group_id = job.task.group_id
        left = {request_id(group_id, index, attempt): index for index in indices}
        writes: list[asyncio.Future[Outcome]] = []
        aborted = False
        self.membership.request_started(len(left))
        try:
            sampling = self._sampling_of(job.task)
            async with aclosing(self.supervisor.engine.generate(list(left), job.prompt, sampling)) as responses:
                async for response, new_tokens in responses:
                    self.membership.add_tokens(new_tokens)
                    if response.finish is None:
                        continue
                    self.membership.request_ended()
                    index = left.pop(response.rid)
                    if response.finish != "abort":
                        writes.append(self._writer.submit(Finished(group_id, index, attempt, job.prompt, response)))
                    if left and not aborted and any(write.done() and is_closed(write) for write in writes):
                        aborted = True
                        await self.supervisor.engine.abort(list(left))
        except EngineError:
            # What was finished before the stream broke off is written all the same.
            await asyncio.gather(*writes)
            raise
        finally:
            self.membership.request_ended(len(left))
        outcomes = await asyncio.gather(*writes)
        if Outcome.CLOSED in outcomes or len(outcomes) == len(indices):
            return []
        return await self._bus.missing_indices(group_id)


def is_closed(write: asyncio.Future[Outcome]) -> bool:
    return write.result() is Outcome.CLOSED
