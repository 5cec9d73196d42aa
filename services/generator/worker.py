"""The generator process: takes prompts off the bus and writes completions, while the engine's weights are updated."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from dapo.bus import RETRIES, Delivery, Outcome, attempt_number
from dapo.bus.keys import EVALUATIONS, PROMPTS
from dapo.bus.roles import GeneratorBus
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from services.generator.engine.client import SamplingParams
from services.generator.engine.responses import EngineError
from services.generator.engine.server import EngineServer
from services.generator.engine.supervisor import EngineSupervisor
from services.generator.membership import ROLE, Membership
from services.generator.texts import ResponseReader
from services.generator.tokens import PromptCodec, PromptError, check_length
from services.generator.weights.hold import WeightHold
from services.generator.weights.receiver import Receiver
from services.generator.writer import CompletionWriter, FinishedResponse

log = logging.getLogger(__name__)

_HEARTBEAT_S = 2.0
_CLAIM_S = 3.0
BLOCK_S = 1.0
_MAX_DELIVERIES = 50
_READ_LIMIT = 4
"""Prompts taken in one read. Few, so that several idle generators share a short queue."""
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


class Generator:
    """One generator of a run; any number of them share the prompt stream.

    Parts, each a task of `run`:
    - `_beat`: heartbeat and member record every 2 s;
    - `supervisor` (EngineSupervisor): starts, watches and replaces the SGLang server;
    - `_receiver` (Receiver): carries out the learner's weight commands;
    - `_consume`: takes prompts, one task for each (`_work`), at most `_slots` at a time;
    - `_writer` (CompletionWriter): stores finished responses.
    `membership` (Membership) is the record that they share; `_hold` (WeightHold) keeps the weights during evaluations.

    Invariants:
    - a prompt that was taken ends fully written, or failed with a reason, or stays pending in the stream, where another
      generator claims it once this one's heartbeat has expired;
    - nothing is generated before the engine serves weights of the version at which the prompt was issued, or later.

    Nothing survives a restart of the process: a new one of the same name starts a new engine, gets the current weights
    from the learner, and claims what it had left pending.

    Waits without limit for weights and for a free slot. Each prompt has RETRIES tries with growing pauses; a prompt
    that was delivered more than 50 times fails its group.
    """

    def __init__(
        self,
        bus: GeneratorBus,
        spec: RunSpec,
        worker_id: str,
        server: EngineServer,
        codec: PromptCodec,
        *,
        evaluates: bool = False,
        devices: Sequence[str] = (),
    ) -> None:
        """`evaluates`: take prompts of evaluations only, and keep the weights while there are some. `devices` are the
        GPUs of its engine, as `dapo.host.devices.device_names` has them."""
        self._bus = bus
        self._evaluates = evaluates
        self._stream = EVALUATIONS if evaluates else PROMPTS
        self._id = worker_id
        self._codec = codec
        sampling = spec.sampling
        self._longest_prompt = spec.data.max_prompt_tokens
        self._sampling = SamplingParams(
            sampling.temperature,
            sampling.max_response_tokens,
            codec.stop_token_ids,
            stop=tuple(sampling.stop),
            masked=codec.masked_ids,
        )
        resources = spec.resources.generator
        # A group that is larger than max_running_requests still runs, one at a time.
        self._slots = max(1, resources.max_running_requests // sampling.group_size)
        self._jobs: set[asyncio.Task[None]] = set()
        self._slot_freed = asyncio.Event()
        self.membership = Membership(
            bus,
            worker_id,
            tensor_parallel=resources.tensor_parallel,
            base_weights=spec.model.path,
            evaluates=evaluates,
            devices=devices,
        )
        self._hold = WeightHold(self.membership)
        self.supervisor = EngineSupervisor(
            server, self.membership, bus.runs.emit, worker_id, fixed_weights=spec.training.steps == 0
        )
        self._receiver = Receiver(bus, worker_id, self.supervisor, self.membership, self._hold)
        hidden = codec.hidden_ids(every_special=sampling.skip_special_tokens)
        reader = ResponseReader(codec.tokenizer, hidden=hidden, stop=sampling.stop)
        self._writer = CompletionWriter(bus, reader, worker_id)

    async def run(self) -> None:
        """Generate until cancelled. On return the engine is dead and the member record removed.

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
            await self._bus.weights.remove_member(self._id)

    async def _beat(self) -> None:
        while True:
            await self.membership.heartbeat()
            await asyncio.sleep(_HEARTBEAT_S)

    async def _consume(self, tasks: asyncio.TaskGroup) -> None:
        claimed_at = -_CLAIM_S
        clock = asyncio.get_running_loop().time
        while True:
            await self.membership.serving.wait()
            free = self._slots - len(self._jobs)
            if free <= 0:
                self._slot_freed.clear()
                await self._slot_freed.wait()
                continue
            count = min(free, _READ_LIMIT)
            deliveries: list[Delivery] = []
            if clock() - claimed_at >= _CLAIM_S:
                claimed_at = clock()
                deliveries = await self._bus.streams.claim_dead(self._stream, ROLE, self._id, count=count)
            if not deliveries:
                deliveries = await self._bus.streams.consume(self._stream, self._id, count=count, block_s=BLOCK_S)
            if not (deliveries or self._jobs):
                await self._hold.release()
            async for job in self._accept(deliveries):
                task = tasks.create_task(self._work(job))
                self._jobs.add(task)
                task.add_done_callback(self._job_done)

    def _job_done(self, task: asyncio.Task[None]) -> None:
        self._jobs.discard(task)
        self._slot_freed.set()

    async def _accept(self, deliveries: Sequence[Delivery]) -> AsyncIterator[PromptJob]:
        """Tokenise. Groups whose prompt cannot be generated from are failed here."""
        if not deliveries:
            return
        tasks = await self._bus.groups.read_tasks([delivery.data.decode() for delivery in deliveries])
        for delivery, task in zip(deliveries, tasks, strict=True):
            try:
                if delivery.attempt > _MAX_DELIVERIES:
                    raise PromptError("generation_failed", f"delivered {delivery.attempt} times without success")
                prompt = self._codec.encode(task.prompt)
                check_length(len(prompt), self._longest_prompt)
            except PromptError as error:
                await self._fail(task.group_id, delivery, error.reason, str(error))
            else:
                yield PromptJob(delivery, task, prompt)

    async def _fail(self, group_id: str, delivery: Delivery, reason: str, detail: str) -> None:
        log.warning("group %s failed: %s: %s", group_id, reason, detail)
        await self._bus.groups.fail(group_id, reason, detail, stream=self._stream, delivery=delivery)

    async def _work(self, job: PromptJob) -> None:
        """Generate and write the responses that the group lacks, trying again where the engine fails."""
        group_id = job.task.group_id
        missing = await self._missing(job)
        failure = "responses were aborted"
        for retry in range(RETRIES):
            if not missing:
                return
            # A member that the learner had dropped may still serve older weights than those published.
            await (self._hold.hold if self._evaluates else self.membership.wait_step)(job.task.issued_version)
            try:
                missing = await self._generate(job, missing, attempt_number(job.delivery.attempt, retry))
            except EngineError as error:
                failure = str(error)
                log.warning("group %s, try %d: %s", group_id, retry + 1, failure)
                missing = await self._bus.groups.missing_indices(group_id)
            if missing:
                await asyncio.sleep(_RETRY_PAUSE_S * (retry + 1))
        if missing:
            detail = f"{RETRIES} tries; the last: {failure}"
            await self._fail(group_id, job.delivery, "generation_failed", detail)

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
                        writes.append(
                            self._writer.submit(FinishedResponse(group_id, index, attempt, job.prompt, response))
                        )
                    if left and not aborted and any(write.done() and is_closed(write) for write in writes):
                        aborted = True
                        await self.supervisor.engine.abort(list(left))
        except EngineError:
            # Responses that finished before the stream broke off are written all the same.
            await asyncio.gather(*writes)
            raise
        finally:
            self.membership.request_ended(len(left))
        outcomes = await asyncio.gather(*writes)
        if Outcome.CLOSED in outcomes or len(outcomes) == len(indices):
            return []
        return await self._bus.groups.missing_indices(group_id)


def is_closed(write: asyncio.Future[Outcome]) -> bool:
    return write.result() is Outcome.CLOSED
