"""The generator process: takes prompts off the bus and writes completions, while the engine's weights are updated."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence

from dapo.bus import Delivery
from dapo.bus.failures import FailureReason
from dapo.bus.keys import EVALUATIONS, PROMPTS
from dapo.bus.roles import GeneratorBus
from dapo.contracts.events import Alert
from dapo.spec import RunSpec
from dapo.worker import leave_stream
from services.generator.engine.client import SamplingParams
from services.generator.engine.responses import EngineError
from services.generator.engine.server import EngineServer
from services.generator.engine.supervisor import EngineSupervisor
from services.generator.instruments import PROMPTS_RUNNING, PROMPTS_WAITING
from services.generator.jobs import JobRunner, PromptJob
from services.generator.membership import ROLE, Membership
from services.generator.salvage import Salvage
from services.generator.texts import ResponseReader
from services.generator.tokens import PromptCodec, PromptError, check_length
from services.generator.weights.hold import WeightHold
from services.generator.weights.receiver import Receiver
from services.generator.writer import CompletionWriter

log = logging.getLogger(__name__)

_HEARTBEAT_S = 2.0
_CLAIM_S = 3.0
BLOCK_S = 1.0
_MAX_LOSSES = 50
_READ_LIMIT = 4
"""Prompts taken in one read. Few, so that several idle generators share a short queue."""
_SILENCE_POLLS = 10
"""So often within the bound on silence the engine is asked whether requests wait."""
_SAVE_S = 2.0
_SWEEP_S = 15.0
_FORGET_S = 60.0


class Generator:
    """One generator of a run; any number of them share the prompt stream.

    Parts, each a task of `run`:
    - `_beat`: heartbeat and member record every 2 s;
    - `supervisor` (EngineSupervisor): starts, watches and replaces the SGLang server;
    - `_receiver` (Receiver): carries out the learner's weight commands;
    - `_consume`: takes prompts, one task for each (`_runner`, a JobRunner), at most `_slots` at a time;
    - `_watch_silence`: ends requests that the engine has lost, so that they are made again;
    - `_writer` (CompletionWriter): stores finished responses;
    - `_salvage` (Salvage): keeps what unfinished ones have when the engine is lost or this generator stops;
    - `_save`: has it save those that go on, for the case that this process is killed;
    - `_sweep`: deletes the member records of generators that are dead for a minute, every 15 s.
    `membership` (Membership) is the record that they share; `_hold` (WeightHold) keeps the weights during evaluations.

    Invariants:
    - a prompt that was taken ends fully written, or failed with a reason, or goes back to the stream: at once when the
      engine is lost or this generator is stopped or left behind, else by another generator's claim once this one's
      heartbeat has expired. Responses that were written by then stay;
    - nothing is generated before the engine serves weights of the version at which the prompt was issued, or later.

    Nothing survives a restart of the process: a new one of the same name starts a new engine, gets the current weights
    from the learner, and claims what it had left pending.

    Waits without limit for weights and for a free slot; prompts that need newer weights go back after 10 s, and no
    others are taken before these come. A prompt under which engines or generators were lost 50 times
    in a row, without one response in between, may be what ends them and fails its group.
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
        self._stream = EVALUATIONS if evaluates else PROMPTS
        self._id = worker_id
        self._codec = codec
        sampling = spec.sampling
        self._longest_prompt = spec.data.max_prompt_tokens
        params = SamplingParams(
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
        self._receiver = Receiver(bus, worker_id, self.supervisor, self.membership, self._hold, spec.weight_sync)
        hidden = codec.hidden_ids(every_special=sampling.skip_special_tokens)
        reader = ResponseReader(codec.tokenizer, hidden=hidden, stop=sampling.stop)
        self._writer = CompletionWriter(bus, reader, worker_id)
        ready = self._hold.hold if evaluates else self.membership.wait_step
        self._salvage = Salvage(bus, worker_id)
        self._runner = JobRunner(
            *(bus, self._stream, worker_id, self.supervisor, self.membership, self._writer, self._salvage, params),
            ready,
            # An evaluation that keeps its weights is of these alone.
            one_version=evaluates,
        )
        self._silence_s = resources.request_silence_s
        PROMPTS_RUNNING.set_function(lambda: len(self._jobs))
        PROMPTS_WAITING.set_function(lambda: len(self._jobs) - self._runner.generating)

    async def run(self) -> None:
        """Generate until cancelled. On return the engine is dead and the member record removed.

        Raises ServerError when the engine cannot be started, BusError when the bus fails.
        """
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat())
                tasks.create_task(self._sweep())
                await self._receiver.skip_old()
                await self.supervisor.start()
                tasks.create_task(self.supervisor.watch())
                tasks.create_task(self._receiver.run())
                tasks.create_task(self._writer.run())
                tasks.create_task(self._salvage.run())
                tasks.create_task(self._save())
                tasks.create_task(self._watch_silence())
                tasks.create_task(self._consume(tasks))
        finally:
            await self._runner.leave()
            await leave_stream(self._bus.streams, self._stream, self._id)
            await self.supervisor.stop()
            await self._bus.weights.remove_member(self._id)

    async def _beat(self) -> None:
        while True:
            await self.membership.heartbeat()
            await asyncio.sleep(_HEARTBEAT_S)

    async def _save(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_S)
            await self._runner.save()

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(_SWEEP_S)
            for generator_id in await self._bus.weights.forget_dead(_FORGET_S):
                log.info("the record of %s, which died, is deleted", generator_id)

    async def _watch_silence(self) -> None:
        poll_s = self._silence_s / _SILENCE_POLLS
        while True:
            await asyncio.sleep(poll_s)
            try:
                lost = await self.supervisor.engine.drop_lost(self._silence_s, poll_s)
            except EngineError as error:
                log.warning("requests of which nothing is heard: %s", error)
            else:
                if lost:
                    await self._tell_lost(lost)

    async def _tell_lost(self, lost: Sequence[str]) -> None:
        some = ", ".join(lost[:3]) + (" …" if len(lost) > 3 else "")
        message = (
            f"{self._id}: SGLang is well, yet nothing was heard of {len(lost)} requests ({some}) for"
            f" {self._silence_s:g} s (resources.generator.request_silence_s); they are generated again"
        )
        log.warning("%s", message)
        await self._bus.runs.emit(Alert(worker_id=self._id, message=message))

    async def _consume(self, tasks: asyncio.TaskGroup) -> None:
        claim_at = 0.0
        clock = asyncio.get_running_loop().time
        while True:
            await self.membership.wait_current()
            free = self._slots - len(self._jobs)
            if free <= 0:
                self._slot_freed.clear()
                await self._slot_freed.wait()
                continue
            deliveries: list[Delivery] = []
            if clock() >= claim_at:
                deliveries = await self._bus.streams.claim_dead(self._stream, ROLE, self._id, count=free)
                if len(deliveries) < free:  # else there may be more
                    claim_at = clock() + _CLAIM_S
            if not deliveries:
                count = min(free, _READ_LIMIT)
                deliveries = await self._bus.streams.consume(self._stream, self._id, count=count, block_s=BLOCK_S)
            if not (deliveries or self._jobs):
                await self._hold.release()
            async for job in self._accept(deliveries):
                task = tasks.create_task(self._runner.run(job))
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
                if delivery.losses >= _MAX_LOSSES:
                    detail = f"{delivery.losses} times in a row its engine or generator was lost before any response"
                    raise PromptError(FailureReason.GENERATION_FAILED, detail)
                prompt = self._codec.encode(task.prompt)
                check_length(len(prompt), self._longest_prompt)
            except PromptError as error:
                await self._runner.fail(task.group_id, delivery, error.reason, str(error))
            else:
                yield PromptJob(delivery, task, prompt)
