"""One run from its creation to its last file: Redis, processes, controller, end."""

import asyncio
import errno
import logging
import shutil
import time
from datetime import datetime

from dapo.bus import Bus, BusError, BusUnavailable
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.data import Dataset, DatasetError
from dapo.host.ports import free_port
from dapo.spec.budget import server_memory_mib
from dapo.host.devices import visible_cuda_devices
from dapo.spec.plan import plan_processes
from dapo.spec.run import RunSpec
from dapo.v1 import run_pb2 as pb
from services.orchestrator.control.controller import Controller, ControllerError
from services.orchestrator.control.evaluator import Evaluator
from services.orchestrator.runs.events import Event, EventLog
from services.orchestrator.runs.inputs import Inputs, input_problems, open_inputs
from services.orchestrator.launch.local import LaunchError, LocalLauncher
from services.orchestrator.records.provenance import provenance
from services.orchestrator.records.recorder import Recorder
from services.orchestrator.launch.supervisor import ChildFailure, Supervisor, tail

log = logging.getLogger(__name__)

_LAST_REPORT_S = 10.0
_REDIS_S = 5.0
"""How long the end of a run waits for one answer of a Redis that may be gone."""
_CLEANING_S = 10.0
_PUMP_PAUSE_S = 1.0
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_TERMINAL = frozenset({"succeeded", "failed", "stopped"})


class RunFailed(RuntimeError):
    """A service of the run ended; the message says which and shows the end of its log."""


_EXPECTED = (RunFailed, BusError, ControllerError, DatasetError, LaunchError, OSError)


def in_words(error: BaseException) -> str:
    """The error's message; a full disk is called one."""
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        return f"the disk is full or its quota used up: free space for the run folder ({error})"
    return str(error)


class Execution:
    """Drives one run. Whatever happens, it ends in a terminal state, with its files written and no process left."""

    def __init__(
        self, run_id: str, spec: RunSpec, recorder: Recorder, *, redis_url: str | None, created_at: datetime
    ) -> None:
        self.run_id = run_id
        self.events = EventLog()
        self._spec = spec
        self._recorder = recorder
        self._redis_url = spec.resources.redis.url or redis_url
        self._created_at = created_at.isoformat(timespec="milliseconds")
        self._began = time.monotonic()
        self._state = "starting"
        self._message = ""
        self._ledger: dict[str, int] = {}
        self._issued = 0
        self._stop = asyncio.Event()
        self._last_event_ms = 0
        self._bus: Bus | None = None
        self._pump: asyncio.Task[None] | None = None
        self._provenance: asyncio.Future[None] | None = None
        self._valkey: EmbeddedValkey | None = None
        self._valkey_start: asyncio.Future[EmbeddedValkey] | None = None
        self._launcher = LocalLauncher(recorder.run_dir)
        self._driver: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._driver = asyncio.create_task(self._drive(), name=f"run {self.run_id}")

    async def stop(self) -> None:
        """End the run if it goes on, and return once it has ended."""
        self._stop.set()
        if self._driver is not None:
            await asyncio.wait({self._driver})

    def snapshot(self) -> pb.Run:
        return pb.Run(
            id=self.run_id,
            state=f"RUN_STATE_{self._state.upper()}",
            run_dir=str(self._recorder.run_dir),
            message=self._message,
            step=len(self._recorder.rows),
            steps_total=self._spec.training.steps,
            created_at=self._created_at,
            ledger=self._ledger,
        )

    async def read(self) -> pb.Run:
        """The run with its ledger of this moment, or of the last at which Redis answered."""
        await self._read_ledger()
        return self.snapshot()

    async def _read_ledger(self) -> None:
        if self._bus is not None:
            try:
                async with asyncio.timeout(_REDIS_S):
                    self._ledger = await self._bus.ledger_counts()
                    self._issued = await self._bus.issued_total()
            except (BusError, TimeoutError) as error:
                log.warning("the ledger of %s cannot be read: %s", self.run_id, error)

    async def _drive(self) -> None:
        work = asyncio.create_task(self._work())
        stop = asyncio.create_task(self._stop.wait())
        await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
        work.cancel()
        stop.cancel()
        await asyncio.wait({work, stop})
        finish = asyncio.create_task(self._finish(*await self._outcome(work)))
        await asyncio.wait({finish})
        if error := finish.exception():
            log.error("the end of %s went wrong", self.run_id, exc_info=error)
            self._state, self._message = "failed", f"the run could not be ended in order: {error!r}"
            await self.events.append(Event(self._event_id(), "state", self._state_data()))
        await self.events.close()

    async def _outcome(self, work: "asyncio.Task[None]") -> tuple[str, str]:
        if work.cancelled():
            return "stopped", "stopped on request"
        error = work.exception()
        if error is None:
            return "succeeded", ""
        if isinstance(error, _EXPECTED):
            valkey = await self._valkey_failure()
            return "failed", in_words(error) if valkey is None else str(valkey)
        log.error("run %s failed", self.run_id, exc_info=error)
        return "failed", f"internal error: {error!r} (the service's log has the traceback)"

    async def _work(self) -> None:
        spec = self._spec
        inputs = await asyncio.to_thread(open_inputs, spec)
        url = await self._redis()
        payload_url = spec.resources.redis.payload_url
        self._bus = bus = await Bus.connect(url, self.run_id, payload_url=payload_url)
        await bus.create_run(spec.model_dump_json(), str(self._recorder.run_dir), self._created_at)
        self._pump = asyncio.create_task(self._pump_events(bus))
        await self._set_state("starting")
        for problem in input_problems(inputs):
            await self._emit("alert", {"message": problem})
        self._provenance = asyncio.ensure_future(asyncio.to_thread(self._write_provenance, inputs.training))
        plans = plan_processes(
            spec,
            run_id=self.run_id,
            run_dir=self._recorder.run_dir,
            redis_url=url,
            payload_url=payload_url,
            master_port=free_port(),
            cuda_devices=visible_cuda_devices(),
        )
        children = await self._launcher.start(plans)
        for child in children:
            await self._emit("service", {"worker_id": child.worker_id, "role": child.role, "state": "launched"})
        await self._control(bus, inputs, Supervisor(children))

    async def _control(self, bus: Bus, inputs: Inputs, supervisor: Supervisor) -> None:
        async def change_state(state: str) -> None:
            if state == "draining":
                supervisor.expect_end("learner")
            await self._set_state(state)

        evaluator = Evaluator(
            bus, self._spec, inputs.evaluation, record=self._recorder.record_evaluation, emit=self._emit
        )
        controller = Controller(
            *(bus, self._spec, inputs.training),
            recorder=self._recorder,
            evaluator=evaluator,
            emit=self._emit,
            change_state=change_state,
        )
        control = asyncio.create_task(controller.run())
        learner = asyncio.create_task(supervisor.wait_for_role("learner"))
        failure = asyncio.create_task(supervisor.first_failure())
        tasks: set[asyncio.Task] = {control, learner, failure}
        try:
            while not (control.done() and learner.done()):
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if failure.done():
                    await self._fail(failure.result())
                if control.done():
                    control.result()
                if learner.done() and not (control.done() or controller.trained):
                    await asyncio.wait({control}, timeout=_LAST_REPORT_S)
                    if not (control.done() or controller.trained):
                        raise RunFailed("the learner ended before its last step was reported")
                tasks = {task for task in tasks if not task.done()}
        finally:
            for task in (control, learner, failure):
                task.cancel()
            await asyncio.wait({control, learner, failure})

    async def _fail(self, failure: ChildFailure) -> None:
        await self._tell("service", {
            "worker_id": failure.worker_id, "state": "failed", "code": failure.code, "message": failure.headline,
            "log": str(failure.log), "log_end": failure.log_end,
        })  # fmt: skip
        raise RunFailed(str(failure))

    async def _valkey_failure(self) -> ChildFailure | None:
        """How the embedded Valkey ended, if it did: the services' own errors only say that Redis is gone."""
        if self._valkey is None or (code := await asyncio.to_thread(self._valkey.exit_code)) is None:
            return None
        return ChildFailure("the embedded Valkey", code, self._valkey.log, tail(self._valkey.log))

    async def _redis(self) -> str:
        if self._redis_url:
            return self._redis_url
        folder = self._recorder.run_dir / "redis"
        folder.mkdir(exist_ok=True)
        self._valkey = EmbeddedValkey(folder, server_memory_mib(self._spec.resources.redis.memory_mib))
        self._valkey_start = asyncio.ensure_future(asyncio.to_thread(self._valkey.start))
        await asyncio.shield(self._valkey_start)
        return self._valkey.url

    def _write_provenance(self, dataset: Dataset) -> None:
        value = provenance(self._spec, dataset, run_id=self.run_id, started_at=self._created_at)
        self._recorder.write_provenance(value)

    def _state_data(self) -> dict:
        return {"state": self._state, "message": self._message}

    async def _set_state(self, state: str, message: str = "") -> None:
        self._state, self._message = state, message
        if self._bus is not None:
            await self._bus.set_run_state(state, message)
        await self._emit("state", self._state_data())

    def _event_id(self) -> str:
        self._last_event_ms = max(self._last_event_ms + 1, int(time.time() * 1000))
        return f"{self._last_event_ms}-0"

    async def _emit(self, kind: str, data: dict) -> None:
        """Through Redis, whose stream orders the events of all services; straight to the log before it is there."""
        if self._bus is None:
            await self.events.append(Event(self._event_id(), kind, data))
        else:
            await self._bus.emit_event(kind, data)

    async def _tell(self, kind: str, data: dict) -> None:
        """Like `_emit`, but watchers are told even where Redis is gone."""
        try:
            async with asyncio.timeout(_REDIS_S):
                await self._emit(kind, data)
        except (BusError, TimeoutError) as error:
            log.warning("%s of %s could not be written to Redis: %s", kind, self.run_id, error)
            await self.events.append(Event(self._event_id(), kind, data))

    async def _pump_events(self, bus: Bus) -> None:
        """Copy the run's events from Redis to the log until its terminal state has passed."""
        after = "0"
        while True:
            try:
                found = await bus.read_events(after, block_s=1.0)
            except BusUnavailable as error:
                log.warning("the events of %s cannot be read, trying again: %s", self.run_id, error)
                await asyncio.sleep(_PUMP_PAUSE_S)
                continue
            for event in found:
                after, kind, data = event
                await self.events.append(Event(after, kind, data))
                if kind == "state" and data.get("state") in _TERMINAL:
                    return

    async def _finish(self, state: str, message: str) -> None:
        try:
            await self._launcher.stop()
        except LaunchError as error:
            state, message = "failed", f"{message}\n{error}".strip()
        await self._read_ledger()
        try:
            await self._write_files(state, message)
        except OSError as error:
            state, message = "failed", f"{message}\nsummary.json cannot be written: {in_words(error)}".strip()
        answered = False
        try:
            answered = await self._announce_end(state, message)
        finally:
            await self._close_redis(clean=answered and self._valkey is None)

    async def _write_files(self, state: str, message: str) -> None:
        if self._provenance is not None:
            await asyncio.wait({self._provenance})
            if unwritten := self._provenance.exception():
                log.error("provenance.json could not be written", exc_info=unwritten)
        elapsed_s = time.monotonic() - self._began
        summary = self._recorder.summary(
            state=state, message=message, ledger=self._ledger, issued=self._issued, elapsed_s=elapsed_s
        )
        self._recorder.write_summary(summary)
        drawing = asyncio.ensure_future(asyncio.to_thread(self._recorder.draw))
        await asyncio.wait({drawing})
        if undrawn := drawing.exception():
            log.error("curves.png could not be drawn", exc_info=undrawn)

    async def _announce_end(self, state: str, message: str) -> bool:
        """Whether Redis took it; watchers are told in any case."""
        try:
            async with asyncio.timeout(_REDIS_S):
                await self._set_state(state, message)
                if self._pump is not None:
                    await asyncio.shield(self._pump)
            return True
        except (BusError, TimeoutError) as error:
            log.warning("the end of %s could not be written to Redis: %s", self.run_id, error)
            await self.events.append(Event(self._event_id(), "state", self._state_data()))
            return False

    async def _close_redis(self, *, clean: bool) -> None:
        if self._pump is not None:
            self._pump.cancel()
            await asyncio.wait({self._pump})
        if self._bus is not None:
            bus, self._bus = self._bus, None
            if clean:
                await self._clean(bus)
            await bus.close()
        if self._valkey is not None and self._valkey_start is not None:
            # A stop may come while it is starting.
            await asyncio.wait({self._valkey_start})
            await asyncio.to_thread(self._valkey.stop)
            if self._state == "succeeded":
                await asyncio.to_thread(shutil.rmtree, self._recorder.run_dir / "redis", ignore_errors=True)

    async def _clean(self, bus: Bus) -> None:
        """A server of others keeps this run's record, events and ledger, and nothing more."""
        try:
            async with asyncio.timeout(_CLEANING_S):
                await bus.delete_work()
        except (BusError, TimeoutError) as error:
            log.warning("keys %s* are left in Redis: %s", bus.keys.prefix, str(error) or f"{_CLEANING_S:.0f} s passed")
