"""One run from its spec to its last file."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from dapo.bus.index import Desired
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import Alert, StateChanged
from dapo.errors import first_leaf
from dapo.host.storage import in_words
from dapo.spec.run import RunSpec
from dapo.telemetry import logs
from dapo.v1 import run_pb2 as pb
from services.orchestrator.control.controller import Controller
from services.orchestrator.control.evaluator import Evaluator
from services.orchestrator.control.growth import Growth
from services.orchestrator.control.issuer import NotRequeued
from services.orchestrator.control.scaling import Autoscaler, Scale
from services.orchestrator.control.watchdog import Watchdog
from services.orchestrator.launch.launcher import Launcher, LaunchError, RunTarget
from services.orchestrator.records.mirror import Mirror
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.runs import completion
from services.orchestrator.runs.entrance import Entrance, record_of
from services.orchestrator.runs.events import RunEvents
from services.orchestrator.runs.inputs import Inputs, input_problems, open_inputs
from services.orchestrator.runs.measured.gauges import Gauges
from services.orchestrator.runs.monitor import HealthMonitor
from services.orchestrator.runs.outcome import (
    INTERRUPTED,
    STOPPED,
    RunFailed,
    RunOutcome,
    Standing,
    at_its_end,
    failed_of,
)
from services.orchestrator.runs.placement import Placement, with_replicas
from services.orchestrator.runs.questions import Questions, answering
from services.orchestrator.runs.redis import RunRedis
from services.orchestrator.runs.resumption import Change, take_up
from services.orchestrator.runs.tenure import LEASE_S, Tenure, new_owner
from services.orchestrator.tracking.tracking import Tracking

log = logging.getLogger(__name__)


class RunDriver:
    """Drives one run through four phases: provision, launch, control, finish.

    - *provision*: Redis is opened, the run's record written, the inputs are read.
    - *launch*: the workloads of the spec are handed to the launcher.
    - *control*: the controller steers, the monitor watches the workers. It is over when the controller has cut the last
      batch and seen it trained, and the batch log says that a checkpoint covers it; exit codes say nothing about that.
    - *finish*: whatever happened before, workers are stopped, files written, the end told, Redis closed.

    Promises: it ends in `succeeded`, `failed`, `stopped` or `cancelled`, with the run's files written and no worker
    left. A stop may come at any moment of the first three phases.

    Restart: its run goes on with a new driver that is told the spec of before (`previous`): what was decided is in
    Redis, or else in the newest checkpoint (resumption.py). It does so only while it holds the run's lease
    (tenure.py): a driver whose run another one leads ends its own workers, and writes nothing.
    """

    def __init__(
        self,
        spec: RunSpec,
        recorder: Recorder,
        launcher: Launcher,
        *,
        redis_url: str | None,
        previous: RunSpec | None = None,
        changed: Sequence[Change] = (),
        owner: str = "",
        desired: Desired | None = Desired.STOPPED,
        enlist: Callable[[], Awaitable[None]] | None = None,
        room: Callable[[str, RunSpec, RunSpec], str] = lambda run_id, now, wanted: "",
    ) -> None:
        """`redis_url`: of the service's server, for a spec that names none; None: the run embeds a Valkey. `previous`:
        the run goes on, this was its spec, and `changed` is what differs now. `owner`: who leads it. `desired`: what is
        wanted of it from the moment it is led; None: what its record says. `enlist`: of a run with which other services
        go on after this one; tells them of it. `room`: why the run cannot become what another spec says; "": it can."""
        self.run_id = run_id = recorder.identity.run_id
        self.events = RunEvents(recorder.run_dir)
        self.spec = spec
        """As it runs at this moment."""
        self._previous, self._changed = previous, changed
        # Of a new run that starts at once nobody else can know before it is led.
        self._known = previous is not None or desired is None
        self._recorder, self._launcher = recorder, launcher
        self._placement = Placement(launcher, self.events)
        self._redis = RunRedis(run_id, recorder.run_dir, spec.resources, redis_url)
        # A Redis of its own is nobody else's: whoever has it needs to wait for no lease.
        leader = str(recorder.run_dir) if self._redis.is_own else owner or new_owner()
        self._tenure = Tenure(leader, workers_stay=launcher.keeps_workers)
        self._listed, self._room = enlist is not None, room
        self.entrance = Entrance(self._redis, self._tenure, recorder, spec, previous, desired, enlist)
        recorder.guard(self._tenure.secure)
        self.left = False
        """Another orchestrator leads the run, and tells of it."""
        self._tracking = Tracking(spec, recorder, self.events)
        self._mirror = Mirror(spec, recorder, self.events)
        self.questions = Questions(recorder.run_dir, self._redis)
        self._began, self._standing = time.monotonic(), Standing()
        self._stopping: RunOutcome | None = None
        self._saving: asyncio.Task[None] | None = None
        self.gauges = Gauges(recorder, self._redis, self._tenure, self._standing, self.events, self._mirror)
        self._controller: Controller | None = None
        self._provenance: asyncio.Future[None] | None = None
        self._archiving: asyncio.Task[None] | None = None
        self._asked: set[asyncio.Task[None]] = set()
        self._work: asyncio.Task[None] | None = None
        self._driving: asyncio.Task[None] | None = None

    def start(self) -> None:
        context = logs.about(self.run_id)
        self._work = asyncio.create_task(self._to_the_end(), name=f"run {self.run_id}", context=context)
        self._driving = asyncio.create_task(self._drive(self._work), name=f"end of {self.run_id}", context=context)

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
        if outcome != STOPPED:
            self._mirror.hurry()
        bus, within_s = self._redis.bus, self.spec.checkpoint.on_stop_s
        if save and self._saving is None and self._standing.state == "running" and bus is not None and within_s:
            self._saving = asyncio.create_task(completion.save_first(bus, self.events, within_s))
        if save and self._saving is not None:
            await asyncio.wait({self._saving, work}, return_when=asyncio.FIRST_COMPLETED)
        if self._stopping is None and not work.done():
            self._stopping = outcome
        if (self._known or self._tenure.epoch) and outcome != INTERRUPTED:  # as its leader, which it is about to be
            opened = asyncio.create_task(self.events.wait_opened())
            await asyncio.wait({opened, work}, timeout=completion.REDIS_S, return_when=asyncio.FIRST_COMPLETED)
            opened.cancel()
        work.cancel()
        await asyncio.wait({driving})

    @property
    def stopping(self) -> bool:
        """It has been asked to end."""
        return self._stopping is not None or self._saving is not None

    async def _carry_out(self, asked: Coroutine[Any, Any, None]) -> None:
        """In a task of the driver's own: a client that does not wait for the answer breaks nothing off."""
        task = asyncio.create_task(asked)
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        await asyncio.shield(task)

    def snapshot(self) -> pb.Run:
        return self._standing.view(self._recorder, self.spec)

    async def read(self) -> pb.Run:
        """The run with its ledger of this moment, or of the last at which Redis answered."""
        await self._standing.refresh(self._redis.bus)
        return self.snapshot()

    async def requeue(self, group_id: str) -> None:
        """Have the prompt of a failed group issued once more. Raises NotRequeued, GroupNotFound, NoAnswer."""
        if self._controller is None or self._redis.bus is None:
            raise NotRequeued(f"group {group_id} is not issued once more: the run is {self._standing.state}")
        async with answering():
            await self._controller.requeue(group_id)

    async def _to_the_end(self) -> None:
        patience_s = self.spec.resources.redis.outage_s if self._known else 0.0
        # The one before may be gone, and its lease not yet lapsed.
        bus = await self.entrance.lead(patience_s, min(patience_s, LEASE_S + completion.REDIS_S))
        async with asyncio.TaskGroup() as tasks:
            losing = tasks.create_task(self._tenure.lost())
            await self.entrance.begin(bus)
            await self._open_events(bus)
            inputs = await asyncio.to_thread(open_inputs, self.spec)
            await self._provision(bus, inputs)
            await self._placement.place_patiently(self._target(), self.spec, patience_s)
            await self._control(bus, inputs)
            losing.cancel()

    async def _open_events(self, bus: OrchestratorBus) -> None:
        if self._previous is not None:
            await self.events.reopen(self._tenure.secure)
        self.events.open(bus, self._tenure.secure)
        self._archiving = asyncio.create_task(self.events.archive())
        await self._set_state("starting")

    async def _provision(self, bus: OrchestratorBus, inputs: Inputs) -> None:
        if self._previous is not None:
            await self._placement.take_over(self._target(), self.spec, changed=bool(self._changed))
            where = await take_up(bus, self._recorder, self._previous, self.spec, self._tenure, self._placement.clear)
            # Not before: a spec that the run cannot go on with must not be the one that the next start compares with.
            await self._recorder.keep_spec(self.spec)
            await self._renew(bus)
            for message in (where, *(f"changed: {change}" for change in self._changed)):
                await self.events.emit(Alert(cause="resumed", message=message, severity="notice"))
        self._tracking.begin(bus, self._tenure.secure)
        self._mirror.begin(self._tenure.secure)
        for problem in input_problems(inputs):
            await self.events.emit(Alert(message=problem))
        self._provenance = asyncio.create_task(self._recorder.write_provenance(self.spec, inputs.training))

    def _target(self) -> RunTarget:
        payload_url = self.spec.resources.redis.payload_url
        return RunTarget(self.run_id, self._redis.url, payload_url, self.run_dir, *self._tenure.terms)

    async def scale(self, scale: Scale) -> None:
        """More workers join while training goes on, those that leave hand back what they hold. Raises RunFailed where
        the run does not go on; LaunchError, and its spec stays as it is; OSError, BusError where that is not kept."""
        bus = self._redis.bus
        if bus is None or self._standing.state not in ("running", "draining"):
            raise RunFailed(f"run {self.run_id} is {self._standing.state}: it is scaled while it runs")

        async def keep(spec: RunSpec) -> None:
            self.spec = spec
            async with asyncio.timeout(completion.REDIS_S):
                await self._recorder.keep_spec(spec)
                await self._renew(bus)

        await self._carry_out(self._placement.scale(self._target(), lambda: self.spec, scale, keep))

    def room(self, replicas: Mapping[str, int]) -> str:
        """Why there is none for so many workers; "": there is."""
        return self._room(self.run_id, self.spec, with_replicas(self.spec, replicas))

    async def _renew(self, bus: OrchestratorBus) -> None:
        await bus.runs.renew(*record_of(self.spec, self._recorder), self._tenure.epoch, self._recorder.identity.history)

    async def _control(self, bus: OrchestratorBus, inputs: Inputs) -> None:
        restarts = self.spec.resources.restarts
        self.gauges.monitor = monitor = HealthMonitor(bus, self._launcher, self.events, self.run_id, restarts)
        self._controller = controller = self._make_controller(bus, inputs, monitor)
        watchdog = Watchdog(bus, self.spec, self.events.emit, monitor.replace, lambda: controller.steps)
        try:
            async with asyncio.TaskGroup() as tasks:
                scaling = Autoscaler(self, self._recorder, controller, self.events.emit).run()
                keeping = (monitor.run(), self._redis.keep(self.events.emit), watchdog.run(), scaling)
                keepers = [tasks.create_task(keeper) for keeper in (*keeping, Growth(self, self._launcher).run())]
                await controller.run(self._tenure.epoch)
                if self.spec.training.steps:
                    await completion.wait_until_complete(bus, monitor)
                for keeper in keepers:
                    keeper.cancel()
        except* RunFailed:
            # The log decides: a worker that fails once the last checkpoint is committed fails no run.
            if self._standing.state != "draining" or not await completion.was_complete(bus):
                raise

    def _make_controller(self, bus: OrchestratorBus, inputs: Inputs, monitor: HealthMonitor) -> Controller:
        async def change_state(state: str) -> None:
            monitor.prove()
            if state == "draining":
                monitor.may_end("learner")
            await self._set_state(state)

        recorder, emit = self._recorder, self.events.emit
        evaluator = Evaluator(bus, self.spec, inputs.evaluation, record=recorder.keep_evaluation, emit=emit)
        steers = (bus, self.spec, inputs.training)
        return Controller(*steers, recorder=recorder, evaluator=evaluator, emit=emit, change_state=change_state)

    async def _set_state(self, state: str, message: str = "") -> None:
        self._standing.change(state, message)
        if (bus := self._redis.bus) is not None:
            await bus.runs.set_state(state, message, self._tenure.epoch)
        await self.events.emit(StateChanged(state=self._standing.state, message=self._standing.message))

    async def _drive(self, work: "asyncio.Task[None]") -> None:
        await asyncio.wait({work})
        finish = asyncio.create_task(self._finish(work))
        await asyncio.wait({finish})
        if error := finish.exception():
            log.error("the end of %s went wrong", self.run_id, exc_info=error)
            self._standing.state, self._standing.message = "failed", f"the run could not be ended in order: {error!r}"
            await self.events.tell_end(StateChanged(state=self._standing.state, message=self._standing.message))
        self.events.close()
        self._recorder.close()

    async def _finish(self, work: "asyncio.Task[None]") -> None:
        """Each step is taken whatever became of the one before."""
        answered = succeeded = False
        try:
            outcome = await self._outcome(work)
            alone = not self._listed or not (self._known or self._tenure.epoch)
            if leads := await self._tenure.may_conclude(alone=alone):
                # Beside the workers, which take their time to leave.
                drawing = asyncio.ensure_future(asyncio.to_thread(self._recorder.draw))
            try:
                await self._placement.end(self.run_id, goes_on=not leads or outcome == INTERRUPTED)
            except LaunchError as error:
                outcome = outcome.but(str(error))
            if not leads:
                return self._leave(outcome)
            await self._standing.read_ledger(self._redis.bus)
            await self.questions.keep(self._tenure.secure)
            if not await self._tenure.may_conclude(alone=alone):  # it may have been frozen since
                return self._leave(outcome)
            try:
                files = (self._recorder, outcome, self._standing, self.gauges.restarts, time.monotonic() - self._began)
                await completion.write_end(*files, self._provenance, drawing)
            except OSError as error:
                outcome = outcome.but(f"summary.json cannot be written: {in_words(error)}")
            succeeded = outcome.state == "succeeded"
            self._standing.state, self._standing.message = outcome
            await asyncio.gather(self._tracking.end(*outcome), self._mirror.end())
            told = (self.events, self._archiving, self._redis.bus, self._tenure.epoch)
            answered = await completion.tell_end(outcome, *told)
        finally:
            self._mirror.abandon()
            self._tracking.abandon()
            self.events.leave()
            if succeeded and answered:
                await self._redis.clean()
            await self._tenure.release()
            await self._redis.close(succeeded=succeeded)

    def _leave(self, outcome: RunOutcome) -> None:
        """Another orchestrator leads the run: nothing of it was this one's any more but its workers."""
        log.error("%s is led by another run service; this one has ended its workers and writes nothing", self.run_id)
        self._standing.state, self._standing.message = outcome
        self.left = True
        self.events.abandon(self._archiving)

    async def _outcome(self, work: "asyncio.Task[None]") -> RunOutcome:
        if work.cancelled():
            # A stop that comes when a checkpoint covers all that was trained takes nothing back.
            bus = self._redis.bus
            complete = self._standing.state == "draining" and bus is not None and await completion.was_complete(bus)
            return at_its_end(self._controller) if complete else self._stopping or STOPPED
        if (raised := work.exception()) is None:
            return at_its_end(self._controller)
        if self._stopping is not None:
            return self._stopping
        return await asyncio.to_thread(failed_of, first_leaf(raised), self.run_dir, await self._redis.failure())
