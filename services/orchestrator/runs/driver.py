"""One run from its spec to its last file."""

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any

from dapo.bus import BusError
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import Alert, StateChanged
from dapo.data import DatasetError
from dapo.errors import first_leaf
from dapo.host.storage import in_words
from dapo.records.checkpoints import CheckpointError
from dapo.spec.problem import SpecError
from dapo.spec.run import RunSpec
from dapo.v1 import run_pb2 as pb
from services.orchestrator.control.alerts import ControllerError
from services.orchestrator.control.controller import Controller
from services.orchestrator.control.evaluator import Evaluator
from services.orchestrator.control.inbox import ROLE
from services.orchestrator.control.issuer import NotRequeued
from services.orchestrator.control.watchdog import Watchdog
from services.orchestrator.launch.launcher import Launcher, LaunchError, RunTarget
from services.orchestrator.records.provenance import provenance
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs import completion
from services.orchestrator.runs.events import RunEvents
from services.orchestrator.runs.inputs import Inputs, input_problems, open_inputs
from services.orchestrator.runs.monitor import HealthMonitor
from services.orchestrator.runs.outcome import STOPPED, RunFailed, RunOutcome, at_its_end, disk_first
from services.orchestrator.runs.placement import Placement, with_replicas
from services.orchestrator.runs.questions import Questions, answering
from services.orchestrator.runs.redis import RunRedis
from services.orchestrator.runs.resumption import changes, take_up

log = logging.getLogger(__name__)

_REDIS_S = 5.0
"""How long one answer of a Redis that may be gone is waited for."""
_EXPECTED = (RunFailed, BusError, ControllerError, DatasetError, LaunchError, SpecError, CheckpointError, OSError)


class RunDriver:
    """Drives one run through four phases: provision, launch, control, finish.

    - *provision*: the inputs are read, Redis is opened, the run's record written.
    - *launch*: the workloads of the spec are handed to the launcher.
    - *control*: the controller steers, the monitor watches the workers. It is over when the controller has cut the last
      batch and seen it trained, and the batch log says that a checkpoint covers it; exit codes say nothing about that.
    - *finish*: whatever happened before, workers are stopped, files written, the end told, Redis closed.

    Promises: it ends in `succeeded`, `failed` or `stopped`, with the run's files written and no worker left. A stop may
    come at any moment of the first three phases.

    Restart: its run goes on with a new driver that is told the spec of before (`previous`): what was decided is in
    Redis, or else in the newest checkpoint (resumption.py). A driver whose run another one has taken over ends its own
    workers, and writes nothing.
    """

    def __init__(
        self,
        spec: RunSpec,
        recorder: Recorder,
        launcher: Launcher,
        *,
        redis_url: str | None,
        previous: RunSpec | None = None,
    ) -> None:
        """`redis_url`: of the service's server, for a spec that names none; None: the run embeds a Valkey. `previous`:
        the run goes on, and this was its spec."""
        self.run_id = run_id = recorder.identity.run_id
        self.events = RunEvents(recorder.run_dir)
        self._spec = spec
        self._previous = previous
        self._recorder = recorder
        self._launcher = launcher
        self._placement = Placement(launcher, self.events)
        self._redis = RunRedis(run_id, recorder.run_dir, spec.resources, redis_url)
        self.questions = Questions(recorder.run_dir, self._redis)
        self._began = time.monotonic()
        self._state = "starting"
        self._message = ""
        self._ledger: dict[str, int] = {}
        self._issued = 0
        self._epoch = 0
        self._stopping: RunOutcome | None = None
        self._saving: asyncio.Task[None] | None = None
        self._monitor: HealthMonitor | None = None
        self._controller: Controller | None = None
        self._provenance: asyncio.Future[None] | None = None
        self._archiving: asyncio.Task[None] | None = None
        self._asked: set[asyncio.Task[None]] = set()
        self._work: asyncio.Task[None] | None = None
        self._driving: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._work = asyncio.create_task(self._to_the_end(), name=f"run {self.run_id}")
        self._driving = asyncio.create_task(self._drive(self._work), name=f"end of run {self.run_id}")

    @property
    def run_dir(self) -> Path:
        return self._recorder.run_dir

    @property
    def over(self) -> bool:
        return self._driving is not None and self._driving.done()

    async def stop(self, outcome: RunOutcome = STOPPED, *, save: bool = False) -> None:
        """End the run if it goes on, and return once it has ended. `save`: first the learner writes a checkpoint,
        within `checkpoint.on_stop_s`; another call without it does not wait for that."""
        if self._work is not None and self._driving is not None:
            await self._carry_out(self._stop(self._work, self._driving, outcome, save))

    async def _stop(
        self, work: "asyncio.Task[None]", driving: "asyncio.Task[None]", outcome: RunOutcome, save: bool
    ) -> None:
        bus, within_s = self._redis.bus, self._spec.checkpoint.on_stop_s
        if save and self._saving is None and self._state == "running" and bus is not None and within_s:
            self._saving = asyncio.create_task(completion.save_first(bus, self.events, within_s))
            await asyncio.wait({self._saving, work}, return_when=asyncio.FIRST_COMPLETED)
        if self._stopping is None and not work.done():
            self._stopping = outcome
        work.cancel()
        await asyncio.wait({driving})

    async def _carry_out(self, asked: Coroutine[Any, Any, None]) -> None:
        """In a task of the driver's own: a client that does not wait for the answer breaks nothing off."""
        task = asyncio.create_task(asked)
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        await asyncio.shield(task)

    def snapshot(self) -> pb.Run:
        return pb.Run(
            id=self.run_id,
            state=f"RUN_STATE_{self._state.upper()}",
            run_dir=str(self._recorder.run_dir),
            message=self._message,
            step=len(self._recorder.rows),
            steps_total=self._spec.training.steps,
            created_at=self._recorder.identity.created_at,
            ledger=self._ledger,
        )

    async def read(self) -> pb.Run:
        """The run with its ledger of this moment, or of the last at which Redis answered."""
        await self._read_ledger()
        return self.snapshot()

    async def requeue(self, group_id: str) -> None:
        """Have the prompt of a failed group issued once more. Raises NotRequeued, GroupNotFound, NoAnswer."""
        if self._controller is None or self._redis.bus is None:
            raise NotRequeued(f"group {group_id} is not issued once more: the run is {self._state}")
        async with answering():
            await self._controller.requeue(group_id)

    async def _read_ledger(self) -> None:
        if (bus := self._redis.bus) is not None:
            try:
                async with asyncio.timeout(_REDIS_S):
                    self._ledger = await bus.groups.ledger()
                    self._issued = await bus.groups.issued_total()
            except (BusError, TimeoutError) as error:
                log.warning("the ledger of %s cannot be read: %s", self.run_id, error)

    # -- the three phases that may fail or be stopped

    async def _to_the_end(self) -> None:
        inputs = await asyncio.to_thread(open_inputs, self._spec)
        bus = await self._provision(inputs)
        if self._previous is None:
            await self._placement.place(self._target(), lambda: self._spec)
        else:
            await self._placement.place_patiently(self._target(), self._spec)
        await self._control(bus, inputs)

    async def _provision(self, inputs: Inputs) -> OrchestratorBus:
        bus = await self._redis.open(0.0 if self._previous is None else self._spec.resources.redis.outage_s)
        self._epoch = await bus.lease.acquire(ROLE)
        news: list[str] = []
        if self._previous is None:
            await bus.runs.create(*self._record())
        else:
            news = [await take_up(bus, self._recorder, self._previous, self._spec, self._epoch)]
            # Not before: a spec that the run cannot go on with must not be the one that the next start compares with.
            self._recorder.keep_spec(self._spec)
            await bus.runs.renew(*self._record(), self._epoch)
            news += [f"changed: {change}" for change in changes(self._previous, self._spec)]
        self.events.open(bus)
        self._archiving = asyncio.create_task(self.events.archive())
        await self._set_state("starting")
        for message in news:
            await self.events.emit(Alert(cause="resumed", message=message))
        for problem in input_problems(inputs):
            await self.events.emit(Alert(message=problem))
        self._provenance = asyncio.ensure_future(asyncio.to_thread(self._write_provenance, inputs))
        return bus

    def _record(self) -> tuple[str, str, str]:
        return self._spec.model_dump_json(), str(self.run_dir), self._recorder.identity.created_at

    def _target(self) -> RunTarget:
        return RunTarget(self.run_id, self._redis.url, self._spec.resources.redis.payload_url, self.run_dir)

    async def scale(self, replicas: Mapping[str, int]) -> None:
        """Have so many workers of a role, `generator` or `verifier`: more join while training goes on, those that leave
        hand back what they hold. Raises RunFailed where the run does not go on; LaunchError, and its spec stays as it
        is; OSError and BusError where it is scaled, but cannot keep that."""
        bus = self._redis.bus
        if bus is None or self._state not in ("running", "draining"):
            raise RunFailed(f"run {self.run_id} is {self._state}: it is scaled while it runs")

        async def keep(spec: RunSpec) -> None:
            self._spec = spec
            self._recorder.keep_spec(spec)
            async with asyncio.timeout(_REDIS_S):
                await bus.runs.renew(*self._record(), self._epoch)

        await self._carry_out(self._placement.place(self._target(), lambda: with_replicas(self._spec, replicas), keep))

    async def _control(self, bus: OrchestratorBus, inputs: Inputs) -> None:
        restarts = self._spec.resources.restarts
        self._monitor = monitor = HealthMonitor(bus, self._launcher, self.events, self.run_id, restarts)
        self._controller = controller = self._make_controller(bus, inputs, monitor)
        watchdog = Watchdog(bus, self._spec, self.events.emit, monitor.replace)
        try:
            async with asyncio.TaskGroup() as tasks:
                keeping = (monitor.run(), self._redis.keep(self.events.emit), watchdog.run())
                keepers = [tasks.create_task(keeper) for keeper in keeping]
                await controller.run(self._epoch)
                if self._spec.training.steps:
                    await completion.wait_until_complete(bus, monitor)
                for keeper in keepers:
                    keeper.cancel()
        except* RunFailed:
            # The log decides: a worker that fails once the last checkpoint is committed fails no run.
            if self._state != "draining" or not await completion.was_complete(bus):
                raise

    def _make_controller(self, bus: OrchestratorBus, inputs: Inputs, monitor: HealthMonitor) -> Controller:
        async def change_state(state: str) -> None:
            monitor.prove()
            if state == "draining":
                monitor.may_end("learner")
            await self._set_state(state)

        emit = self.events.emit
        evaluator = Evaluator(bus, self._spec, inputs.evaluation, record=self._recorder.record_evaluation, emit=emit)
        return Controller(
            *(bus, self._spec, inputs.training),
            recorder=self._recorder,
            evaluator=evaluator,
            emit=emit,
            change_state=change_state,
        )

    async def _set_state(self, state: str, message: str = "") -> None:
        self._state, self._message = state, message
        if (bus := self._redis.bus) is not None:
            await bus.runs.set_state(state, message, self._epoch)
        await self.events.emit(StateChanged(state=self._state, message=self._message))

    def _write_provenance(self, inputs: Inputs) -> None:
        value = provenance(
            self._spec, inputs.training, run_id=self.run_id, started_at=self._recorder.identity.created_at
        )
        self._recorder.write_provenance(value)

    # -- the end

    async def _drive(self, work: "asyncio.Task[None]") -> None:
        await asyncio.wait({work})
        finish = asyncio.create_task(self._finish(work))
        await asyncio.wait({finish})
        if error := finish.exception():
            log.error("the end of %s went wrong", self.run_id, exc_info=error)
            self._state, self._message = "failed", f"the run could not be ended in order: {error!r}"
            await self.events.tell_end(StateChanged(state=self._state, message=self._message))
        self.events.close()
        self._recorder.close()

    async def _finish(self, work: "asyncio.Task[None]") -> None:
        """Each step is taken whatever became of the one before."""
        answered = succeeded = False
        try:
            outcome = await self._outcome(work)
            if await completion.was_taken_over(work, self._redis.bus, self._epoch):
                await self._leave(outcome)
                return
            try:
                await self._placement.end(self.run_id)
            except LaunchError as error:
                outcome = outcome.but(str(error))
            await self._read_ledger()
            await self.questions.keep()
            try:
                await self._write_files(outcome)
            except OSError as error:
                outcome = outcome.but(f"summary.json cannot be written: {in_words(error)}")
            succeeded = outcome.state == "succeeded"
            self._state, self._message = outcome
            answered = await completion.tell_end(outcome, self.events, self._archiving, self._redis.bus, self._epoch)
        finally:
            self.events.leave()
            await self._redis.close(succeeded=succeeded, answers=answered)

    async def _leave(self, outcome: RunOutcome) -> None:
        """Another orchestrator drives the run now: nothing of it is this one's any more, but its workers."""
        log.error("%s: %s", self.run_id, outcome.message)
        self._state, self._message = outcome
        await self._placement.end(self.run_id)

    async def _outcome(self, work: "asyncio.Task[None]") -> RunOutcome:
        if work.cancelled():
            # A stop that comes when a checkpoint covers all that was trained takes nothing back.
            bus = self._redis.bus
            complete = self._state == "draining" and bus is not None and await completion.was_complete(bus)
            return at_its_end(self._controller) if complete else self._stopping or STOPPED
        if (raised := work.exception()) is None:
            return at_its_end(self._controller)
        if self._stopping is not None:
            return self._stopping
        error = first_leaf(raised)
        if isinstance(error, _EXPECTED):
            words = await self._redis.failure() or in_words(error, self.run_dir)
            return RunOutcome("failed", await asyncio.to_thread(disk_first, words, self.run_dir))
        log.error("run %s failed", self.run_id, exc_info=error)
        return RunOutcome("failed", f"internal error: {error!r} (the service's log has the traceback)")

    async def _write_files(self, outcome: RunOutcome) -> None:
        if self._provenance is not None:
            await completion.settled(self._provenance, "provenance.json could not be written")
        summary = self._recorder.summary(
            state=outcome.state,
            message=outcome.message,
            ledger=self._ledger,
            issued=self._issued,
            restarts=self._monitor.restarts if self._monitor is not None else 0,
            elapsed_s=self._recorder.elapsed_before_s + time.monotonic() - self._began,
        )
        self._recorder.write_summary(summary)
        await completion.settled(
            asyncio.ensure_future(asyncio.to_thread(self._recorder.draw)), "curves.png could not be drawn"
        )
