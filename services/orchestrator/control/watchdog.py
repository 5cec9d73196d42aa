"""Watches what the run waits for: tells of it, then has the holder started again, at last ends the run in words."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta

from dapo.algo.progress import (
    FIRST_STEP,
    Explanation,
    Level,
    Looks,
    Oldest,
    Progress,
    Reading,
    Role,
    Scene,
    Stage,
    Wait,
    explain,
    explain_start,
    seconds,
)
from dapo.bus import BusError
from dapo.bus.failures import FailureReason
from dapo.bus.keys import COMPLETIONS, EVALUATIONS, LEARNER_STEP, LEFT_OUT, PROMPTS, SCORED
from dapo.bus.roles import OrchestratorBus
from dapo.contracts.events import WAITING, WAITING_OVER, Alert, Emit
from dapo.spec.run import RunSpec
from dapo.spec.workloads import plan_workloads
from dapo.v1 import messages_pb2 as pb
from services.orchestrator.control.alerts import ControllerError

log = logging.getLogger(__name__)

_LOOK_S = 1.0
_STAGES: tuple[tuple[str, Stage], ...] = (
    *((PROMPTS, "generation"), (EVALUATIONS, "generation")),
    *((COMPLETIONS, "grading"), (SCORED, "decision")),
)
"""What the stage that reads a stream does."""

Restart = Callable[[Role, Sequence[str], str], Awaitable[None]]
"""Ends and starts again these workers of the role (none named: all), for that reason."""


class Watchdog:
    """Looks every second whether anything has moved; what that means is dapo.algo.progress's to say.

    An unusual wait is an alert `waiting`, again when it has doubled and when the run waits for something else, and
    `waiting_over` once it has ended. Until the run serves its first weights it only tells; its workers' own deadlines
    hold. Looks in which Redis does not answer are left out.
    """

    def __init__(
        self, bus: OrchestratorBus, spec: RunSpec, emit: Emit, restart: Restart, steps: Callable[[], int]
    ) -> None:
        """`steps`: how many the run has, as far as is known by now; fewer than its spec says where it ends early."""
        self._bus = bus
        self._spec = spec
        self._emit = emit
        self._restart = restart
        self._steps = steps
        restarts = spec.resources.restarts
        _, least_s = spec.longest_deadline
        self._progress = Progress(restarts.wait_alert_s, restarts.stall_s, least_s)
        self._start_looks = Looks()
        self._start_s = 0.0
        self._told: Explanation | None = None
        self._told_s = 0.0

    async def run(self) -> None:
        """Until cancelled. Raises ControllerError where the run stands still and no restart mends it, and what
        `restart` raises."""
        while True:
            try:
                await self._look()
            except BusError as error:
                log.warning("what the run waits for cannot be seen: %s", error)
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        members = await self._bus.weights.members()
        reading = await self._read(members)
        if reading is None:
            await self._look_at_start(members)
            return
        wait = self._progress.observe(reading, time.monotonic())
        if wait.level == Level.NORMAL:
            await self._tell_of_end()
            return
        explanation = explain(wait, await self._see(members))
        await self._tell(wait, explanation)
        if wait.level >= Level.STUCK:
            await self._act(wait.level, explanation)

    async def _look_at_start(self, members: Sequence[pb.Member]) -> None:
        self._start_s += self._start_looks.passed(time.monotonic())
        if self._start_s < FIRST_STEP * self._spec.resources.restarts.wait_alert_s:
            return
        standings: dict[str, str] = {}
        for workload in plan_workloads(self._spec):
            if workload.role == "generator":
                joined = {member.generator_id: await self._trouble(member, None) for member in members}
            elif workload.role == "learner":
                alive = await self._bus.registry.alive("learner", workload.worker_ids)
                joined = dict.fromkeys(alive, "has published none")
            else:
                continue
            standings |= {worker: joined.get(worker, "sends no heartbeat") for worker in workload.worker_ids}
        await self._tell(Wait(1, False, self._start_s, Level.UNUSUAL), explain_start(self._start_s, standings))

    async def _act(self, level: Level, explanation: Explanation) -> None:
        """Raises ControllerError where nothing is left to be done."""
        role, group_id = explanation.role, explanation.group_id
        if level == Level.STUCK and role is not None:
            self._progress.acted()
            await self._restart(role, explanation.workers, explanation.text)
        elif level == Level.FUTILE and role is not None and group_id is not None:
            self._progress.acted()
            await self._bus.groups.fail(group_id, FailureReason.STALLED, explanation.text)
        else:
            raise ControllerError(
                f"the run stands still: {explanation.text}. It is given up after {seconds(self._progress.stall_s)} "
                "without any progress (resources.restarts.stall_s)"
                + (", and restarts did not help" if level > Level.STUCK else "")
            )

    async def _read(self, members: Sequence[pb.Member]) -> Reading | None:
        """None before the first weights are served."""
        version = await self._bus.weights.published_version()
        evaluates_only = self._spec.training.steps == 0
        if version is None and not (evaluates_only and any(member.HasField("version") for member in members)):
            return None
        ledger = await self._bus.groups.ledger()
        batched, trained = ledger.pop("batched"), ledger.pop("trained")
        tokens = sorted((member.generator_id, member.generated_tokens) for member in members)
        told = await self._bus.registry.find(LEARNER_STEP)
        return Reading(
            step=trained // self._spec.training.prompts_per_step + 1,
            in_training=batched > 0,
            learning=(trained, version.step if version is not None else 0, told),
            # No batch may be in training while the learner loads, or writes a checkpoint that is waited for.
            flow=(tuple(ledger.items()), tuple(tokens), await self._bus.streams.length(COMPLETIONS), told),
        )

    async def _see(self, members: Sequence[pb.Member]) -> Scene:
        now = datetime.now()
        oldest: dict[Stage, Oldest] = {}
        for stream, stage in _STAGES:
            holder = await self._bus.streams.oldest(stream)
            if holder is not None and stage not in oldest:
                since = now - timedelta(seconds=holder.held_s) if holder.worker_id else None
                oldest[stage] = Oldest(stage, holder.group_id, holder.worker_id, since)
        ledger, version = await self._bus.groups.ledger(), await self._bus.weights.published_version()
        wanted = self._steps() * self._spec.training.prompts_per_step
        return Scene(
            oldest=tuple(oldest.values()),
            generators={member.generator_id: await self._trouble(member, version) for member in members},
            full_server=await self._bus.payloads.refuses(),
            last_checkpoint=0 < wanted <= ledger["trained"],
        )

    async def _trouble(self, member: pb.Member, published: pb.Version | None) -> str:
        if member.state == "updating":
            return "is being given weights"
        if member.HasField("version") and member.version == published:
            return ""
        if why := await self._bus.registry.find(LEFT_OUT.format(member.generator_id)):
            return f"is left out of new weights ({why})"
        return "" if member.HasField("version") else "serves no weights"

    async def _tell(self, wait: Wait, explanation: Explanation) -> None:
        told = self._told
        if told is not None and told.subject == explanation.subject and wait.lasted_s < 2 * self._told_s:
            return
        log.warning("%s", explanation.text)
        worker_id = explanation.workers[0] if len(explanation.workers) == 1 else None
        group_id = explanation.group_id
        await self._emit(Alert(cause=WAITING, message=explanation.text, worker_id=worker_id, group_id=group_id))
        self._told, self._told_s = explanation, wait.lasted_s

    async def _tell_of_end(self) -> None:
        if self._told is not None:
            message = f"the run goes on, after nothing had moved for {seconds(self._told_s)} or more"
            await self._emit(Alert(cause=WAITING_OVER, message=message, severity="notice"))
            self._told = None
