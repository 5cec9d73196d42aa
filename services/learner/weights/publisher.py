"""The sending end of the weight channel: members are joined, updated side by side, and a version is published."""

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dapo.bus.roles import LearnerBus
from dapo.contracts.events import Alert
from dapo.spec.tree.training import WeightSyncSpec
from dapo.v1 import messages_pb2 as pb
from services.learner.weights.transport import DEVICE_OF, WeightGroup, WeightGroupError, choose_backend

log = logging.getLogger(__name__)

_RETRY_S = 5.0
"""Rest after a failure, in which the generator can notice its own and register as starting."""
_FAILURE_LIMIT = 5
"""Failures of one member, with no update done in between, after which the run cannot be expected to recover."""
_REPLY_BLOCK_S = 1.0


class MemberFailed(Exception):
    """The generator answered that it could not do what was asked."""


class WeightSyncError(RuntimeError):
    """A generator cannot be given the weights, however often it starts anew; the message says what to do."""


_FAILURES = (MemberFailed, WeightGroupError, TimeoutError)


@dataclass(slots=True)
class Channel:
    """A joined generator and the version it was last brought to."""

    generator_id: str
    group: WeightGroup
    served: pb.Version | None = None
    updating: bool = False


@dataclass(slots=True)
class MemberUpdate:
    """One member's update under way: buckets go in at the queue, seconds of pause come out of the task."""

    queue: asyncio.Queue[Tensor]
    task: asyncio.Task[float]


class Publisher:
    """Brings the learner's parameters to every generator. Lives on the control loop of learner rank 0.

    A member is a generator; one that has joined a weight group (WeightGroup) has a Channel. `refresh`, called every
    quarter of a second, joins members that are ready and forgets those that left or started anew. `begin`, `feed` for
    each bucket and `finish` bring all channels to one version; each has a task and a queue of its own (MemberUpdate).

    Invariants:
    - members are updated to whole versions, and one that fails in between is forgotten, never left half updated;
    - the published version moves only when no joined member serves an older one;
    - a member that fails or misses a deadline costs the others at most the time until that deadline. It comes back by
      registering anew, after 5 s at the earliest.

    Nothing survives a restart: the successor's epoch makes new groups, and generators refuse commands of an older one.

    Waits at most `weight_sync.join_deadline_s` for a join and `weight_sync.update_deadline_s` for an update, pause and
    replies included. Five failures of one member without an update in between raise WeightSyncError.
    """

    def __init__(
        self,
        bus: LearnerBus,
        epoch: int,
        spec: WeightSyncSpec,
        buckets: list[pb.WeightBucket],
        queue_limit: int,
        *,
        address: str,
        devices: Sequence[str],
    ) -> None:
        """`queue_limit` bounds the buckets that wait for one slow member (0: no bound). `address` and `devices` are
        this rank's: where members reach it, and the GPUs that it sends from, as `device_names` has them."""
        self._bus = bus
        self._epoch = epoch
        self._spec = spec
        self._address = address
        self._devices = tuple(devices)
        self._buckets = buckets
        self._queue_limit = queue_limit
        self._channels: dict[str, Channel] = {}
        self._joining: dict[str, asyncio.Task[None]] = {}
        self._retry_at: dict[str, float] = {}
        self._failures: Counter[str] = Counter()
        self._cursors: dict[str, str] = {}
        self._serials = itertools.count(epoch << 32)
        self._groups = itertools.count()
        self._updates: list[MemberUpdate] = []
        self._published = False

    # -- membership

    async def refresh(self) -> None:
        """Forget members that left or started anew, and begin to join those that are ready.

        Raises WeightSyncError when a member has failed to join for the _FAILURE_LIMIT-th time.
        """
        before = [(channel, channel.served) for channel in self._channels.values() if not channel.updating]
        members = {member.generator_id: member for member in await self._bus.weights.members()}
        for channel, served in before:
            # What was read says nothing about a channel that was updated or forgotten meanwhile.
            unchanged = channel.served == served and self._channels.get(channel.generator_id) is channel
            judged = unchanged and not channel.updating
            if judged and not _still_joined(channel, members.get(channel.generator_id)):
                log.info("generator %s left its weight group", channel.generator_id)
                self._forget(channel)
        for generator_id, task in list(self._joining.items()):
            if task.done():
                del self._joining[generator_id]
                task.result()
        for generator_id, member in members.items():
            known = generator_id in self._channels or generator_id in self._joining
            if member.state == "ready" and not known and time.monotonic() >= self._retry_at.get(generator_id, 0.0):
                self._joining[generator_id] = asyncio.create_task(self._join(member))

    async def _join(self, member: pb.Member) -> None:
        deadline = self._spec.join_deadline_s
        generator_id = member.generator_id
        name = f"{generator_id}-{self._epoch}-{next(self._groups)}"
        backend = choose_backend(self._spec.backend, self._devices, member.devices)
        group = WeightGroup(name, 1 + max(1, member.tensor_parallel), backend, deadline, self._address)
        join = pb.JoinGroup(
            group_name=name,
            master_address=self._address,
            master_port=group.port,
            world_size=group.world_size,
            backend=backend,
        )
        try:
            async with asyncio.timeout(deadline):
                serial = await self._command(generator_id, pb.WeightCommand(deadline_s=deadline, join=join))
                await _together(
                    asyncio.to_thread(group.join, deadline), self._reply(generator_id, serial, phase="done")
                )
        except _FAILURES as error:
            group.close()
            await self._failed(generator_id, "join", error)
            return
        self._channels[generator_id] = Channel(generator_id, group)
        log.info("generator %s joined weight group %s", generator_id, name)

    def _forget(self, channel: Channel) -> None:
        channel.group.close()
        self._channels.pop(channel.generator_id, None)

    async def _failed(self, generator_id: str, phase: Literal["join", "update"], error: Exception) -> None:
        """Report a failure. Raises WeightSyncError when it is the _FAILURE_LIMIT-th since the member's last update."""
        reason = str(error) or "the deadline passed"
        self._retry_at[generator_id] = time.monotonic() + _RETRY_S
        log.warning("generator %s: weight %s failed: %s", generator_id, phase, reason)
        await self._bus.runs.emit(Alert(cause=f"weight_{phase}_failed", generator=generator_id, message=reason))
        self._failures[generator_id] += 1
        if self._failures[generator_id] >= _FAILURE_LIMIT:
            deadline = self._spec.join_deadline_s if phase == "join" else self._spec.update_deadline_s
            raise WeightSyncError(
                f"generator {generator_id}: {_FAILURE_LIMIT} weight joins or updates in a row failed, the last in "
                f"phase {phase}: {reason}. If it is only slow, raise weight_sync.{phase}_deadline_s "
                f"(now {deadline:g} s); otherwise logs/{generator_id}.log says why"
            ) from error

    # -- commands

    async def _command(self, generator_id: str, command: pb.WeightCommand) -> int:
        command.serial = next(self._serials)
        command.incarnation = self._epoch
        await self._bus.weights.send_command(generator_id, command)
        return command.serial

    async def _reply(self, generator_id: str, serial: int, *, phase: str) -> pb.WeightReply:
        """The reply to `serial` in this phase. Raises MemberFailed when the generator says so."""
        while True:
            after = self._cursors.get(generator_id, "0")
            for position, reply in await self._bus.weights.read_replies(generator_id, after, block_s=_REPLY_BLOCK_S):
                self._cursors[generator_id] = position
                if reply.serial != serial:
                    continue
                if reply.phase == "failed":
                    raise MemberFailed(reply.error)
                if reply.phase == phase:
                    return reply

    # -- publishing

    async def waiting(self, step: int) -> bool:
        """Whether a joined member does not serve this version yet."""
        return any(channel.served != self._version(step) for channel in self._channels.values())

    @property
    def device(self) -> str:
        """Where buckets are wanted: "cuda" where a member is reached by NCCL, else "cpu"."""
        backends = {channel.group.backend for channel in self._channels.values()}
        return DEVICE_OF["nccl" if "nccl" in backends else "gloo"]

    def _version(self, step: int) -> pb.Version:
        return pb.Version(incarnation=self._epoch, step=step)

    async def begin(self, step: int) -> None:
        """Ask every joined member that does not serve this version to make ready for it."""
        version = self._version(step)
        self._updates = []
        for channel in self._channels.values():
            if channel.served != version:
                queue: asyncio.Queue[Tensor] = asyncio.Queue(self._queue_limit)
                channel.updating = True
                task = asyncio.create_task(self._update(channel, version, queue))
                self._updates.append(MemberUpdate(queue, task))

    async def feed(self, bucket: Tensor) -> None:
        """Hand the next bucket to every member that is still with us."""
        for update in self._updates:
            put = asyncio.ensure_future(update.queue.put(bucket))
            await asyncio.wait({put, update.task}, return_when=asyncio.FIRST_COMPLETED)
            put.cancel()

    async def finish(self, step: int) -> float | None:
        """Wait for the members and publish the version; the longest pause in seconds, None when it was not published.

        The first version of a learner needs a member that serves it; a later one is also published when no generator
        is left, so that the run can go on as soon as one comes back. Raises WeightSyncError, see `refresh`.
        """
        pauses = [await update.task for update in self._updates]
        self._updates = []
        version = self._version(step)
        served = [channel.served == version for channel in self._channels.values()]
        if not any(served) and (not self._published or served):
            return None
        await self._bus.weights.publish_version(version, self._epoch)
        self._published = True
        return max(pauses, default=0.0)

    async def _update(self, channel: Channel, version: pb.Version, queue: asyncio.Queue[Tensor]) -> float:
        """Bring one member to `version`; seconds it was paused. A failure forgets the member and returns 0.

        Raises WeightSyncError when the member has failed too often.
        """
        deadline = self._spec.update_deadline_s
        update = pb.UpdateWeights(group_name=channel.group.name, version=version, buckets=self._buckets)
        try:
            async with asyncio.timeout(deadline):
                command = pb.WeightCommand(deadline_s=deadline, update=update)
                serial = await self._command(channel.generator_id, command)
                await self._reply(channel.generator_id, serial, phase="ready")
                # The replies are watched during the broadcasts: a refused bucket must not cost the whole deadline.
                _, done = await _together(
                    self._send(channel, queue, deadline), self._reply(channel.generator_id, serial, phase="done")
                )
        except _FAILURES as error:
            self._forget(channel)
            await self._failed(channel.generator_id, "update", error)
            return 0.0
        finally:
            channel.updating = False
        channel.served = version
        del self._failures[channel.generator_id]
        return done.pause_s

    async def _send(self, channel: Channel, queue: asyncio.Queue[Tensor], deadline: float) -> None:
        for _ in self._buckets:
            await asyncio.to_thread(channel.group.broadcast, await queue.get(), deadline)


async def _together(sending: Awaitable[None], replying: Awaitable[pb.WeightReply]) -> tuple[None, pb.WeightReply]:
    """Both results; when one raises, the other is cancelled and the error goes up."""
    tasks = (asyncio.ensure_future(sending), asyncio.ensure_future(replying))
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _still_joined(channel: Channel, member: pb.Member | None) -> bool:
    """A member that was served and shows no version has started anew; one that is not ready cannot be updated."""
    if member is None or member.state not in ("ready", "updating"):
        return False
    return channel.served is None or member.HasField("version")
