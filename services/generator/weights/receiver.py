"""The receiving end of the weight channel: commands come over the bus, tensors go straight into SGLang."""

import asyncio
import logging
import time
from collections.abc import Sequence

from dapo.bus.roles import GeneratorBus
from dapo.spec.tree.training import WeightSyncSpec
from dapo.v1 import messages_pb2 as pb
from services.generator.engine.client import TensorDescription
from services.generator.engine.responses import EngineError
from services.generator.engine.supervisor import EngineSupervisor
from services.generator.instruments import WEIGHT_PAUSE_SECONDS, WEIGHT_UPDATES
from services.generator.membership import Membership, version_name
from services.generator.weights.hold import WeightHold

log = logging.getLogger(__name__)

BLOCK_S = 1.0
_BUCKET_PATIENCE = 2
"""Deadlines that may pass until a bucket is there: the learner may wait for another member for one of them, and this
member may take another."""


class UpdateFailed(Exception):
    """The command was refused; the engine is as it was before."""


class Receiver:
    """Carries out the learner's weight commands, one at a time and in order: join, update, leave.

    Every command is answered with `done` or `failed`; an update also with `ready`, once generation is halted. A command
    that fails inside the engine, or passes the deadline it carries, has the engine killed and replaced, as it may wait
    in a collective or hold part of the weights. The member then has no version, and the learner has it join again. One
    that is read after its deadline, because this process or its host stood still, is refused: its sender has given up.

    Invariants:
    - commands of a learner older than the newest one seen (`_incarnation`) are refused;
    - a weight group belongs to one engine: `_joined` is false for the engine's successor;
    - what a version's buckets hold is said in a group's first update, and kept for the later ones;
    - weights do not change while the WeightHold holds them.

    After a restart of the process, `skip_old` passes over what was sent to the one before. Waits for commands without
    limit. From the time it was sent, a join has its `deadline_s` to end, and an update to be ready (and what it may
    drain); from then on each call of the engine has as long, and twice as long where it also waits for the learner.
    What becomes of responses in flight says `weight_sync.in_flight`.
    """

    def __init__(
        self,
        bus: GeneratorBus,
        generator_id: str,
        supervisor: EngineSupervisor,
        membership: Membership,
        hold: WeightHold,
        spec: WeightSyncSpec,
    ) -> None:
        self._bus = bus
        self._hold = hold
        self._in_flight = spec.in_flight
        self._drain_s = spec.drain_s if spec.in_flight == "drain" else 0.0
        self._id = generator_id
        self._supervisor = supervisor
        self._membership = membership
        self._after = "0"
        self._group: str | None = None
        self._group_engine = -1
        self._buckets: Sequence[pb.WeightBucket] = ()
        """What the group's last update consisted of."""
        self._incarnation = 0

    async def skip_old(self) -> None:
        """Skip commands to an earlier process of this name. To be called before the member is ready."""
        self._after = await self._bus.weights.last_command_id(self._id)
        published = await self._bus.weights.published_version()
        self._incarnation = published.incarnation if published is not None else 0

    async def run(self) -> None:
        """Carry out commands, until cancelled."""
        while True:
            for message_id, command in await self._bus.weights.read_commands(self._id, self._after, block_s=BLOCK_S):
                self._after = message_id
                await self._handle(command, await self._bus.weights.age_s(message_id))

    async def _handle(self, command: pb.WeightCommand, age_s: float) -> None:
        """`age_s`: seconds since the command was sent."""
        kind = command.WhichOneof("command")
        due_s = command.deadline_s + (self._drain_s if kind == "update" else 0.0)
        left_s = due_s - age_s
        try:
            if left_s <= 0:
                raise UpdateFailed(f"expired: read {age_s:.1f} s after it was sent, due in {due_s:g} s")
            if not self._supervisor.up:
                raise UpdateFailed("the engine is being restarted")
            self._check_incarnation(command.incarnation)
            if self._hold.held:
                raise UpdateFailed("an evaluation goes on, and its weights are kept")
            with self._supervisor.command():
                async with asyncio.timeout(left_s) as limit:
                    pause_s = await self._carry_out(command, limit)
        except (UpdateFailed, EngineError, TimeoutError) as error:
            reason = f"past its deadline of {due_s:g} s" if isinstance(error, TimeoutError) else str(error)
            log.warning("weight command %d (%s) failed: %s", command.serial, kind, reason)
            # The engine may wait in a collective or hold part of the weights.
            if not isinstance(error, UpdateFailed):
                self._supervisor.fail(f"weight command {kind} failed: {reason}")
            _count(kind, "failed")
            await self._reply(command, "failed", error=reason)
        else:
            _count(kind, "done", pause_s)
            await self._reply(command, "done", pause_s=pause_s)

    def _check_incarnation(self, incarnation: int) -> None:
        """Raises UpdateFailed for a command of a learner that was replaced, and may not know it."""
        if incarnation < self._incarnation:
            raise UpdateFailed(
                f"the learner's incarnation {incarnation} was replaced by {self._incarnation}; stop the older learner"
            )
        self._incarnation = incarnation

    async def _carry_out(self, command: pb.WeightCommand, limit: asyncio.Timeout) -> float:
        """Returns the seconds that generation was halted. Raises UpdateFailed, EngineError."""
        if command.HasField("join"):
            await self._join(command.join, command.deadline_s)
        elif command.HasField("update"):
            return await self._update(command, command.update, limit)
        elif command.HasField("leave"):
            await self._leave(command.leave)
        else:
            raise UpdateFailed("the command is empty or of a newer protocol")
        return 0.0

    async def _join(self, join: pb.JoinGroup, deadline_s: float) -> None:
        if self._joined(self._group):
            await self._leave(pb.LeaveGroup(group_name=self._group or ""))
        try:
            await self._supervisor.engine.init_group(
                name=join.group_name,
                address=join.master_address,
                port=join.master_port,
                world_size=join.world_size,
                backend=join.backend,
                timeout_s=deadline_s,
            )
        except EngineError as error:
            if error.status is None:
                raise
            # The engine answered with an error, so it is not stuck in the group.
            raise UpdateFailed(str(error)) from error
        self._group, self._group_engine = join.group_name, self._supervisor.replacements
        self._buckets = ()

    async def _update(self, command: pb.WeightCommand, update: pb.UpdateWeights, limit: asyncio.Timeout) -> float:
        """`limit` is lifted once generation is halted: from then on the learner may wait for others in between."""
        if not self._joined(update.group_name):
            raise UpdateFailed(f"the engine is not in the group {update.group_name!r}; join first")
        self._buckets = update.buckets or self._buckets
        if not self._buckets:
            raise UpdateFailed("the update has no buckets, and nor has one before it in its group")
        engine, deadline_s = self._supervisor.engine, command.deadline_s
        # From here on no prompts are taken and no requests are made.
        await self._membership.set_state("updating")
        if self._in_flight == "abort":
            await engine.interrupt(deadline_s)
        elif self._in_flight == "drain" and not await engine.drain(self._drain_s):
            log.warning("not all responses in flight were finished within %g s; they go on", self._drain_s)
        started = time.monotonic()
        await engine.pause(timeout_s=deadline_s)
        await self._reply(command, "ready")
        limit.reschedule(None)
        await engine.begin_update(timeout_s=deadline_s)
        last = len(self._buckets) - 1
        for position, bucket in enumerate(self._buckets):
            version = version_name(update.version) if position == last else None
            await engine.receive_bucket(
                *(update.group_name, describe(bucket.tensors)),
                version=version,
                timeout_s=_BUCKET_PATIENCE * deadline_s,
            )
        await engine.end_update(timeout_s=deadline_s)
        await engine.resume(timeout_s=deadline_s)
        pause_s = time.monotonic() - started
        if not self._supervisor.up or self._supervisor.engine is not engine:
            raise UpdateFailed("the engine went away during the update")
        await self._membership.serve(update.version)
        return pause_s

    async def _leave(self, leave: pb.LeaveGroup) -> None:
        if self._joined(leave.group_name):
            self._group = None
            await self._supervisor.engine.destroy_group(leave.group_name)

    def _joined(self, group: str | None) -> bool:
        """Whether the engine that runs now is in that group."""
        return group is not None and group == self._group and self._group_engine == self._supervisor.replacements

    async def _reply(self, command: pb.WeightCommand, phase: str, *, error: str = "", pause_s: float = 0.0) -> None:
        reply = pb.WeightReply(serial=command.serial, phase=phase, error=error, pause_s=pause_s)
        await self._bus.weights.send_reply(self._id, reply)


def _count(kind: str | None, outcome: str, pause_s: float | None = None) -> None:
    if kind == "update":
        WEIGHT_UPDATES.labels(outcome).inc()
        if pause_s is not None:
            WEIGHT_PAUSE_SECONDS.observe(pause_s)


def describe(tensors: Sequence[pb.TensorSpec]) -> list[TensorDescription]:
    return [TensorDescription(tensor.name, tensor.dtype, tuple(tensor.shape)) for tensor in tensors]
