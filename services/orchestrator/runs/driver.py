"""One run from its spec to its last file."""

import asyncio
import logging
import time
from typing import Any

from dapo.bus import BusError
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import Alert, ServiceChanged, StateChanged
from dapo.data import DatasetError
from dapo.errors import first_leaf
from dapo.host.storage import in_words, probe
from dapo.spec.run import RunSpec
from dapo.spec.workloads import plan_workloads
from dapo.v1 import run_pb2 as pb
from services.orchestrator.control.alerts import ControllerError
from services.orchestrator.control.controller import Controller
from services.orchestrator.control.evaluator import Evaluator
from services.orchestrator.control.issuer import NotRequeued
from services.orchestrator.launch.launcher import Launcher, LaunchError, RunTarget
from services.orchestrator.records.provenance import provenance
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs.events import RunEvents
from services.orchestrator.runs.inputs import Inputs, input_problems, open_inputs
from services.orchestrator.runs.monitor import HealthMonitor
from services.orchestrator.runs.outcome import RunFailed, RunOutcome
from services.orchestrator.runs.questions import Questions, answering
from services.orchestrator.runs.redis import RunRedis

log = logging.getLogger(__name__)

_REDIS_S = 5.0
"""How long one answer of a Redis that may be gone is waited for."""
_LOG_POLL_S = 0.2
_EXPECTED = (RunFailed, BusError, ControllerError, DatasetError, LaunchError, OSError)


class RunDriver:
    """Drives one run through four phases: provision, launch, control, finish.

    - *provision*: the inputs are read, Redis is opened, the run's record written.
    - *launch*: the workloads of the spec are handed to the launcher.
    - *control*: the controller steers, the monitor watches the workers. It is over when the controller has cut the last
      batch and seen it trained, and the batch log says that a checkpoint covers it; exit codes say nothing about that.
    - *finish*: whatever happened before, workers are stopped, files written, the end told, Redis closed.

    Promises: it ends in `succeeded`, `failed` or `stopped`, with the run's files written and no worker left. A stop may
    come at any moment of the first three phases.

    Restart: nothing of it survives. The run's record, ledger, batch log and events are in Redis, the files in its
    folder; see docs/architecture.md.
    """

    def __init__(self, spec: RunSpec, recorder: Recorder, launcher: Launcher, *, redis_url: str | None) -> None:
        """`redis_url`: of the service's server, for a spec that names none; None: the run embeds a Valkey."""
        self.run_id = run_id = recorder.identity.run_id
        self.events = RunEvents(recorder.run_dir)
        self._spec = spec
        self._recorder = recorder
        self._launcher = launcher
        self._workloads = plan_workloads(spec)
        self._redis = RunRedis(run_id, recorder.run_dir, spec.resources.redis, redis_url)
        self.questions = Questions(self._redis, recorder.run_dir)
        self._began = time.monotonic()
        self._state = "starting"
        self._message = ""
        self._ledger: dict[str, int] = {}
        self._issued = 0
        self._stopping = False
        self._controller: Controller | None = None
        self._monitor: HealthMonitor | None = None
        self._provenance: asyncio.Future[None] | None = None
        self._archiving: asyncio.Task[None] | None = None
        self._work: asyncio.Task[None] | None = None
        self._driving: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._work = asyncio.create_task(self._to_the_end(), name=f"run {self.run_id}")
        self._driving = asyncio.create_task(self._drive(self._work), name=f"end of run {self.run_id}")

    async def stop(self) -> None:
        """End the run if it goes on, and return once it has ended."""
        if self._work is not None and self._driving is not None:
            self._stopping |= not self._work.done()
            self._work.cancel()
            await asyncio.wait({self._driving})

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
        await self._launch()
        await self._control(bus, inputs)

    async def _provision(self, inputs: Inputs) -> OrchestratorBus:
        bus = await self._redis.open()
        await bus.runs.create(
            self._spec.model_dump_json(), str(self._recorder.run_dir), self._recorder.identity.created_at
        )
        self.events.open(bus)
        self._archiving = asyncio.create_task(self.events.archive())
        await self._set_state("starting")
        for problem in input_problems(inputs):
            await self.events.emit(Alert(message=problem))
        self._provenance = asyncio.ensure_future(asyncio.to_thread(self._write_provenance, inputs))
        return bus

    async def _launch(self) -> None:
        payload_url = self._spec.resources.redis.payload_url
        target = RunTarget(self.run_id, self._redis.url, payload_url, self._recorder.run_dir)
        await self._launcher.apply(target, self._workloads)
        for workload in self._workloads:
            for worker_id in workload.worker_ids:
                await self.events.emit(ServiceChanged(worker_id=worker_id, role=workload.role, state="launched"))

    async def _control(self, bus: OrchestratorBus, inputs: Inputs) -> None:
        restarts = self._spec.resources.restarts
        self._monitor = monitor = HealthMonitor(bus, self._launcher, self.events, self.run_id, restarts)
        self._controller = controller = self._make_controller(bus, inputs, monitor)
        try:
            async with asyncio.TaskGroup() as tasks:
                keepers = [tasks.create_task(monitor.run()), tasks.create_task(self._redis.keep(self.events.emit))]
                await controller.run()
                await self._last_checkpoint(bus, monitor)
                for keeper in keepers:
                    keeper.cancel()
        except* RunFailed:
            # The log decides: a worker that fails once the last checkpoint is committed fails no run.
            if self._state != "draining" or not await self._was_complete(bus):
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

    async def _last_checkpoint(self, bus: OrchestratorBus, monitor: HealthMonitor) -> None:
        """Return once only the end mark is left in the batch log: a checkpoint covers whatever was trained."""
        if not self._spec.training.steps:
            return
        while True:
            # Asked first: a learner that commits and leaves between the two questions has done its work.
            left = await monitor.has_left("learner")
            if await self._is_complete(bus):
                return
            if left:
                raise RunFailed("the learner ended before its last checkpoint was written")
            await asyncio.sleep(_LOG_POLL_S)

    async def _was_complete(self, bus: OrchestratorBus) -> bool:
        """As `_is_complete`; no, where Redis does not answer."""
        try:
            async with asyncio.timeout(_REDIS_S):
                return await self._is_complete(bus)
        except (BusError, TimeoutError):
            return False

    @staticmethod
    async def _is_complete(bus: OrchestratorBus) -> bool:
        """Whether nothing but the end mark is left in the batch log."""
        left = await bus.batches.read(-1, block_s=0)
        return bool(left) and left[0].end

    async def _set_state(self, state: str, message: str = "") -> None:
        self._state, self._message = state, message
        if (bus := self._redis.bus) is not None:
            await bus.runs.set_state(state, message)
        await self.events.emit(self._state_event())

    def _state_event(self) -> StateChanged:
        return StateChanged(state=self._state, message=self._message)

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
            await self.events.tell(self._state_event())
        self.events.close()

    async def _finish(self, work: "asyncio.Task[None]") -> None:
        """Each step is taken whatever became of the one before."""
        answered = succeeded = False
        try:
            outcome = await self._outcome(work)
            try:
                await self._launcher.stop(self.run_id)
            except LaunchError as error:
                outcome = outcome.but(str(error))
            await self._read_ledger()
            await self.questions.keep()
            try:
                await self._write_files(outcome)
            except OSError as error:
                outcome = outcome.but(f"summary.json cannot be written: {in_words(error)}")
            succeeded = outcome.state == "succeeded"
            answered = await self._tell_end(outcome)
        finally:
            self.events.leave()
            await self._redis.close(succeeded=succeeded, answers=answered)

    async def _outcome(self, work: "asyncio.Task[None]") -> RunOutcome:
        if work.cancelled():
            # A stop that comes when a checkpoint covers all that was trained takes nothing back.
            bus = self._redis.bus
            complete = self._state == "draining" and bus is not None and await self._was_complete(bus)
            return RunOutcome("succeeded") if complete else RunOutcome("stopped", "stopped on request")
        error = work.exception()
        if error is None:
            return RunOutcome("succeeded")
        if self._stopping:
            return RunOutcome("stopped", "stopped on request")
        error = first_leaf(error)
        if isinstance(error, _EXPECTED):
            words = await self._redis.failure() or in_words(error, self._recorder.run_dir)
            return RunOutcome("failed", await asyncio.to_thread(self._disk_first, words))
        log.error("run %s failed", self.run_id, exc_info=error)
        return RunOutcome("failed", f"internal error: {error!r} (the service's log has the traceback)")

    def _disk_first(self, words: str) -> str:
        """Where the run's disk takes nothing more, that is why whatever failed has failed."""
        refused = probe(self._recorder.run_dir)
        if refused is None or in_words(refused).partition(":")[0] in words.partition("\n")[0]:
            return words
        return f"{in_words(refused)}\n{words.partition(chr(10))[0]}"

    async def _write_files(self, outcome: RunOutcome) -> None:
        if self._provenance is not None:
            await _done(self._provenance, "provenance.json could not be written")
        summary = self._recorder.summary(
            state=outcome.state,
            message=outcome.message,
            ledger=self._ledger,
            issued=self._issued,
            restarts=self._monitor.restarts if self._monitor is not None else 0,
            elapsed_s=time.monotonic() - self._began,
        )
        self._recorder.write_summary(summary)
        await _done(asyncio.ensure_future(asyncio.to_thread(self._recorder.draw)), "curves.png could not be drawn")

    async def _tell_end(self, outcome: RunOutcome) -> bool:
        """Whether Redis took it; watchers are told in any case."""
        self._state, self._message = outcome
        answered = await self.events.tell(self._state_event())
        if self._archiving is not None:
            if answered:
                await asyncio.wait({self._archiving}, timeout=_REDIS_S)
            self._archiving.cancel()
            await _done(self._archiving, "the events could not be archived")
        if answered and (bus := self._redis.bus) is not None:
            try:
                async with asyncio.timeout(_REDIS_S):
                    await bus.runs.set_state(*outcome)
            except (BusError, TimeoutError) as error:
                log.warning("the end of %s could not be written to its record: %s", self.run_id, error)
                return False
        return answered


async def _done(work: "asyncio.Future[Any]", trouble: str) -> None:
    """Wait for work whose failure is only logged."""
    await asyncio.wait({work})
    if not work.cancelled() and (error := work.exception()):
        log.error("%s: %s", trouble, in_words(error), exc_info=error)
