"""The sending end of the weight channel: members are joined, updated side by side, and a version is published."""

import asyncio
import itertools
import logging
import time
from collections.abc import Collection, Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dapo.bus.keys import LEFT_OUT
from dapo.bus.parts.registry import HEARTBEAT_TTL_S
from dapo.bus.roles import LearnerBus
from dapo.contracts.events import Alert
from dapo.spec.tree.training import WeightSyncSpec
from dapo.v1 import messages_pb2 as pb
from services.learner.instruments import WEIGHT_FAILURES, WEIGHT_MEMBERS
from services.learner.weights.channel import FAILURES, Channel
from services.learner.weights.dialogue import Dialogue
from services.learner.weights.patience import GroupCalls
from services.learner.weights.quarantine import LONGEST_PAUSE_S, Quarantine
from services.learner.weights.transport import DEVICE_OF, WeightGroup, choose_backend

log = logging.getLogger(__name__)

_LINGERING_CALLS = 3
"""So many calls on a generator's earlier groups may still wait for their timeouts when it is invited again."""
_STALL_S = 3.0
"""A read of the members that takes longer has met an outage of Redis, or this process stood still. Heartbeats of the
living may have expired meanwhile, so for the time of one nobody counts as dead."""


class WeightSyncError(RuntimeError):
    """No generator could be given the weights for too long; the message says why, and what to do."""


@dataclass(slots=True)
class Join:
    """A generator that is joining."""

    channel: Channel
    task: asyncio.Task[None]


@dataclass(slots=True)
class MemberUpdate:
    """One member's update under way: buckets go in at the queue, seconds of pause come out of the task."""

    queue: asyncio.Queue[Tensor]
    task: asyncio.Task[float]

    async def hand(self, bucket: Tensor) -> None:
        """Put the bucket into the queue, unless the update ends first."""
        put = asyncio.ensure_future(self.queue.put(bucket))
        await asyncio.wait({put, self.task}, return_when=asyncio.FIRST_COMPLETED)
        put.cancel()


class Publisher:
    """Brings the learner's parameters to every generator. Lives on the control loop of learner rank 0.

    A member is a generator; one that has joined a weight group (WeightGroup) has a Channel. `refresh`, called every
    quarter of a second, joins members that are ready and drops those that left, died or started anew, also in the
    middle of a join or an update. `begin`, `feed` for each bucket and `finish` bring all channels to one version; each
    has a task and a queue of its own (MemberUpdate).

    Invariants:
    - members are updated to whole versions, and one that fails in between is forgotten, never left half updated;
    - the published version moves only when no joined member serves an older one;
    - a member that fails costs the others at most the time until it is judged. It is left out for growing pauses
      (Quarantine) and comes back by joining anew;
    - time in which a member waits for the learner, or for a slower member, is not held against it (Allowance).

    Nothing survives a restart: the successor's epoch makes new groups, and generators refuse commands of an older one.

    Waits for a member at most `weight_sync.join_deadline_s` to join, `weight_sync.update_deadline_s` (and what it may
    drain) to be ready for an update, and the same deadline from then to its end; for one whose heartbeat stops only
    until that is noticed. `refresh` raises WeightSyncError where no generator could be served for
    `weight_sync.no_generator_s`.
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
        self._dialogue = Dialogue(bus.weights, epoch)
        self._calls = GroupCalls()
        self._quarantine = Quarantine(spec.no_generator_s)
        self._channels: dict[str, Channel] = {}
        self._joining: dict[str, Join] = {}
        self._evaluators: set[str] = set()
        self._groups = itertools.count()
        self._updates: list[MemberUpdate] = []
        self._published = False
        self._settled = 0.0
        WEIGHT_MEMBERS.set_function(lambda: len(self._channels))

    # -- membership

    async def refresh(self) -> None:
        """Drop members that left, died or started anew, and begin to join those that are ready.

        Raises WeightSyncError.
        """
        channels = [(channel, channel.served) for channel in self._channels.values()]
        joining = list(self._joining.values())
        began = time.monotonic()
        members = {member.generator_id: member for member in await self._bus.weights.members()}
        now = time.monotonic()
        if now - began > _STALL_S:
            self._settled = now + HEARTBEAT_TTL_S
        for channel, served in channels:
            # What was read says nothing about a channel that was updated or forgotten meanwhile.
            unchanged = channel.served == served and self._channels.get(channel.generator_id) is channel
            judged = unchanged and self._may_judge(channel, members)
            if judged and (reason := channel.why_gone(members.get(channel.generator_id))):
                self._drop(channel, reason)
        for join in joining:
            judged = self._may_judge(join.channel, members)
            if judged and (reason := join.channel.why_gone(members.get(join.channel.generator_id))):
                join.channel.give_up(reason)
        for generator_id, join in list(self._joining.items()):
            if join.task.done():
                del self._joining[generator_id]
                join.task.result()
        self._invite(members.values())
        self._look(members.values())

    def _may_judge(self, channel: Channel, members: Container[str]) -> bool:
        return channel.generator_id in members or time.monotonic() >= self._settled

    def _invite(self, members: Iterable[pb.Member]) -> None:
        now = time.monotonic()
        alone = not self._channels.keys() - self._evaluators
        for member in members:
            generator_id = member.generator_id
            known = generator_id in self._channels or generator_id in self._joining
            lingers = self._calls.running(generator_id) > _LINGERING_CALLS
            if (
                member.state == "ready"
                and not (known or lingers)
                and self._quarantine.may_try(generator_id, now, alone=alone)
            ):
                channel = self._open(member)
                self._joining[generator_id] = Join(channel, asyncio.create_task(self._join(channel)))

    def _look(self, members: Collection[pb.Member]) -> None:
        """Raises WeightSyncError when no generator could be served for too long."""
        # A run gets nowhere on those that take prompts of evaluations alone.
        self._evaluators |= {member.generator_id for member in members if member.evaluates}
        channels = [channel for name, channel in self._channels.items() if name not in self._evaluators]
        serving = any(channel.served is not None for channel in channels)
        waiting = any(not channel.busy for channel in channels)
        ready = any(member.state == "ready" and not member.evaluates for member in members)
        self._quarantine.look(time.monotonic(), ready=ready, waiting=waiting, serving=serving)
        if self._quarantine.hopeless:
            reasons = "; ".join(self._quarantine.reasons()) or "none has registered as ready"
            raise WeightSyncError(
                f"no generator could be given the weights for weight_sync.no_generator_s = "
                f"{self._spec.no_generator_s:g} s. {reasons}. logs/<generator>.log says more. For generators that are "
                "only slow, raise weight_sync.join_deadline_s, update_deadline_s or no_generator_s"
            )

    def _open(self, member: pb.Member) -> Channel:
        name = f"{member.generator_id}-{self._epoch}-{next(self._groups)}"
        backend = choose_backend(self._spec.backend, self._devices, member.devices)
        world_size = 1 + max(1, member.tensor_parallel)
        group = WeightGroup(name, world_size, backend, self._spec.join_deadline_s, self._address)
        return Channel(member.generator_id, group, self._dialogue, self._calls)

    async def _join(self, channel: Channel) -> None:
        try:
            await channel.join(self._address, self._spec.join_deadline_s)
        except FAILURES as error:
            channel.close()
            await self._failed(channel.generator_id, "join", error)
            return
        channel.busy = False
        self._channels[channel.generator_id] = channel
        log.info("generator %s joined weight group %s", channel.generator_id, channel.group.name)

    def _drop(self, channel: Channel, reason: str) -> None:
        if not channel.busy:
            log.info("generator %s left its weight group: %s", channel.generator_id, reason)
            self._forget(channel)
        else:
            channel.give_up(reason)

    def _forget(self, channel: Channel) -> None:
        channel.close()
        self._channels.pop(channel.generator_id, None)

    async def _failed(
        self, generator_id: str, phase: Literal["join", "update"], error: Exception, cost_s: float = 0.0
    ) -> None:
        """Leave the generator out for a while, and say so where that is new."""
        WEIGHT_FAILURES.labels(phase).inc()
        deadline = self._spec.join_deadline_s if phase == "join" else self._spec.update_deadline_s
        slow = f"took longer than weight_sync.{phase}_deadline_s = {deadline:g} s"
        reason = f"weight {phase}: {slow if isinstance(error, TimeoutError) else error}"
        sentence = self._quarantine.failed(generator_id, reason, time.monotonic(), cost_s=cost_s)
        # Known until it has been tried again.
        await self._bus.registry.announce(LEFT_OUT.format(generator_id), reason, sentence.pause_s + deadline)
        log.warning("generator %s is left out for %g s: %s", generator_id, sentence.pause_s, reason)
        if sentence.first:
            message = (
                f"{generator_id} gets no weights for now: {reason}. It is tried again after {sentence.pause_s:g} s, "
                f"then after pauses of up to {LONGEST_PAUSE_S:g} s, or ten times as long as it keeps others "
                "waiting; these go on"
            )
            await self._alert("generator_quarantined", generator_id, message, reason, sentence.pause_s)

    async def _alert(
        self, cause: str, generator_id: str, message: str, reason: str | None = None, pause_s: float | None = None
    ) -> None:
        alert = Alert(cause=cause, worker_id=generator_id, message=message, reason=reason, pause_s=pause_s)
        await self._bus.runs.emit(alert)

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
                channel.busy = True
                task = asyncio.create_task(self._update(channel, version, queue))
                self._updates.append(MemberUpdate(queue, task))

    async def feed(self, bucket: Tensor) -> None:
        """Hand the next bucket to every member that is still with us; waits while the queue of one is full."""
        await asyncio.gather(*(update.hand(bucket) for update in self._updates))

    async def finish(self, step: int) -> float | None:
        """Wait for the members and publish the version; the longest pause in seconds, None when it was not published.

        The first version of a learner needs a member that serves it; a later one is also published when no generator
        is left, so that the run can go on as soon as one comes back.
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
        """Bring one member to `version`; seconds it was paused. A failure forgets the member and returns 0."""
        began = time.monotonic()
        try:
            pause_s = await channel.update(
                version, self._buckets, queue, self._spec.update_deadline_s, self._spec.ready_s
            )
        except FAILURES as error:
            self._forget(channel)
            # One that has died or lost its engine comes back as another.
            cost_s = time.monotonic() - began if self._channels and not channel.gone else 0.0
            await self._failed(channel.generator_id, "update", error, cost_s)
            return 0.0
        finally:
            channel.busy = False
        if self._quarantine.served(channel.generator_id):
            await self._alert("generator_back", channel.generator_id, f"{channel.generator_id} has the weights again")
        return pause_s
