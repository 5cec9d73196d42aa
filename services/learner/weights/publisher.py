"""What rank 0 decides of the weight channel: who joins, which rank sends to whom, and when a version is published."""

import asyncio
import itertools
import logging
import time
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from dapo.bus.keys import LEFT_OUT
from dapo.bus.parts.registry import HEARTBEAT_TTL_S
from dapo.bus.roles import LearnerBus
from dapo.contracts.events import Alert
from dapo.spec.tree.training import WeightSyncSpec
from dapo.v1 import messages_pb2 as pb
from services.learner.instruments import WEIGHT_FAILURES, WEIGHT_MEMBERS
from services.learner.weights.assignment import choose_sender
from services.learner.weights.channel import FAILURES
from services.learner.weights.orders import RemoteSender
from services.learner.weights.patience import unless_gone
from services.learner.weights.quarantine import LONGEST_PAUSE_S, Quarantine
from services.learner.weights.sender import Round, Sender
from services.learner.weights.subscriber import Subscriber

log = logging.getLogger(__name__)

_STALL_S = 3.0
"""A read of the members that takes longer has met an outage of Redis, or this process stood still. Heartbeats of the
living may have expired meanwhile, so for the time of one nobody counts as dead."""


class WeightSyncError(RuntimeError):
    """No generator could be given the weights for too long; the message says why, and what to do."""


@dataclass(slots=True)
class Join:
    """A generator that is joining."""

    subscriber: Subscriber
    task: asyncio.Task[None]


class Publisher:
    """Decides who is sent which version, and by which rank. Lives on the control loop of learner rank 0.

    A member is a generator; one that joins or has joined a weight group is a Subscriber, assigned to one of the ranks
    that send (assignment.py). `refresh`, called every quarter of a second, has members join that are ready and drops
    those that left, died or started anew, also in the middle of a join or an update. `begin` has all ranks bring their
    subscribers to one version, `finish` waits for them. What is decided for this rank's own does its Sender, for others
    a RemoteSender has it done.

    Invariants:
    - a subscriber stays with its rank; no rank is given a member while another that sends has fewer;
    - members are updated to whole versions, and one that fails in between is forgotten, never left half updated;
    - the published version moves only when no joined member serves an older one;
    - a member that fails costs the others at most the time until it is judged. It is left out for growing pauses
      (Quarantine) and comes back by joining anew, maybe at another rank;
    - time in which a member waits for the learner is not held against it (Allowance).

    Nothing survives a restart: the successor's epoch makes new groups, and generators refuse commands of an older one.

    Waits for a member at most `weight_sync.join_deadline_s` to join, `weight_sync.update_deadline_s` (and what it may
    drain) to be ready for an update, and the same deadline from then to its end; for one whose heartbeat stops only
    until that is noticed; for the report of another rank as long as that may take, and 30 s or, of an update, 30
    minutes. `refresh` raises WeightSyncError where no generator could be served for `weight_sync.no_generator_s`.
    """

    def __init__(
        self,
        bus: LearnerBus,
        epoch: int,
        spec: WeightSyncSpec,
        sender: Sender,
        others: Mapping[int, RemoteSender] | None = None,
        hosts: Sequence[str] = ("",),
    ) -> None:
        """`sender` is this rank's, `others` those of the other ranks that send; `hosts` names each rank's host."""
        self._bus = bus
        self._epoch = epoch
        self._spec = spec
        self._sender = sender
        self._others = dict(others or {})
        self._hosts = tuple(hosts)
        self._quarantine = Quarantine(spec.no_generator_s)
        self._subscribers: dict[str, Subscriber] = {}
        self._joining: dict[str, Join] = {}
        self._evaluators: set[str] = set()
        self._groups = itertools.count()
        self._updates: list[asyncio.Task[float]] = []
        self._published = False
        self._settled = 0.0
        WEIGHT_MEMBERS.set_function(lambda: len(self._subscribers))

    # -- membership

    async def refresh(self) -> None:
        """Drop members that left, died or started anew, and begin to join those that are ready.

        Raises WeightSyncError.
        """
        known = [(one, one.served) for one in self._subscribers.values()]
        joining = list(self._joining.values())
        began = time.monotonic()
        members = {member.generator_id: member for member in await self._bus.weights.members()}
        now = time.monotonic()
        if now - began > _STALL_S:
            self._settled = now + HEARTBEAT_TTL_S
        for one, served in known:
            # What was read says nothing about a subscriber that was updated or forgotten meanwhile.
            unchanged = one.served == served and self._subscribers.get(one.generator_id) is one
            judged = unchanged and self._may_judge(one, members)
            if judged and (reason := one.why_gone(members.get(one.generator_id))):
                await self._drop(one, reason)
        for one in [join.subscriber for join in joining]:
            judged = self._may_judge(one, members)
            if judged and (reason := one.why_gone(members.get(one.generator_id))):
                one.give_up(reason)
        for generator_id, join in list(self._joining.items()):
            if join.task.done():
                del self._joining[generator_id]
                join.task.result()
        self._invite(members.values())
        self._look(members.values())

    def _may_judge(self, subscriber: Subscriber, members: Container[str]) -> bool:
        return subscriber.generator_id in members or time.monotonic() >= self._settled

    def _invite(self, members: Iterable[pb.Member]) -> None:
        now = time.monotonic()
        alone = not self._subscribers.keys() - self._evaluators
        for member in members:
            generator_id = member.generator_id
            known = generator_id in self._subscribers or generator_id in self._joining
            if member.state == "ready" and not known and self._quarantine.may_try(generator_id, now, alone=alone):
                subscriber = self._assign(member)
                self._joining[generator_id] = Join(subscriber, asyncio.create_task(self._join(subscriber, member)))

    def _assign(self, member: pb.Member) -> Subscriber:
        served = [*self._subscribers.values(), *(join.subscriber for join in self._joining.values())]
        loads = Counter(one.rank for one in served)
        rank = choose_sender(member.host, [0, *sorted(self._others)], self._hosts, loads)
        name = f"{member.generator_id}-{self._epoch}-{next(self._groups)}"
        return Subscriber(member.generator_id, name, rank)

    def _look(self, members: Collection[pb.Member]) -> None:
        """Raises WeightSyncError when no generator could be served for too long."""
        # A run gets nowhere on those that take prompts of evaluations alone.
        self._evaluators |= {member.generator_id for member in members if member.evaluates}
        subscribers = [one for name, one in self._subscribers.items() if name not in self._evaluators]
        serving = any(one.served is not None for one in subscribers)
        waiting = any(not one.busy for one in subscribers)
        ready = any(member.state == "ready" and not member.evaluates for member in members)
        self._quarantine.look(time.monotonic(), ready=ready, waiting=waiting, serving=serving)
        if self._quarantine.hopeless:
            reasons = "; ".join(self._quarantine.reasons()) or "none has registered as ready"
            raise WeightSyncError(
                f"no generator could be given the weights for weight_sync.no_generator_s = "
                f"{self._spec.no_generator_s:g} s. {reasons}. logs/<generator>.log says more. For generators that are "
                "only slow, raise weight_sync.join_deadline_s, update_deadline_s or no_generator_s"
            )

    async def _join(self, subscriber: Subscriber, member: pb.Member) -> None:
        sender = self._others.get(subscriber.rank, self._sender)
        try:
            await unless_gone(subscriber.gone, sender.join(member, subscriber.group_name))
        except FAILURES as error:
            await self._leave(subscriber)
            await self._failed(subscriber.generator_id, "join", error)
            return
        subscriber.busy = False
        self._subscribers[subscriber.generator_id] = subscriber
        log.info(
            "generator %s joined weight group %s of rank %d",
            *(subscriber.generator_id, subscriber.group_name, subscriber.rank),
        )

    async def _drop(self, subscriber: Subscriber, reason: str) -> None:
        if subscriber.busy:
            subscriber.give_up(reason)
            return
        log.info("generator %s left its weight group: %s", subscriber.generator_id, reason)
        await self._forget(subscriber)

    async def _forget(self, subscriber: Subscriber) -> None:
        self._subscribers.pop(subscriber.generator_id, None)
        await self._leave(subscriber)

    async def _leave(self, subscriber: Subscriber) -> None:
        """Have the rank that sends to it free its group."""
        if subscriber.rank in self._others:
            await self._others[subscriber.rank].drop(subscriber.group_name)
        else:
            self._sender.drop(subscriber.group_name)

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
        return any(one.served != self._version(step) for one in self._subscribers.values())

    def _version(self, step: int) -> pb.Version:
        return pb.Version(incarnation=self._epoch, step=step)

    async def begin(self, step: int) -> Round:
        """Ask every joined member that does not serve this version to make ready for it. The buckets of this rank's own
        are to be handed to the Round; the other ranks do so with theirs."""
        version = self._version(step)
        behind = [one for one in self._subscribers.values() if one.served != version]
        for one in behind:
            one.busy = True
        begun = self._sender.begin(version, [one.group_name for one in behind if one.rank not in self._others])
        updates = begun.updates
        for rank, sender in self._others.items():
            updates |= await sender.begin(version, [one.group_name for one in behind if one.rank == rank])
        self._updates = [asyncio.create_task(self._update(one, version, updates[one.group_name])) for one in behind]
        return begun

    async def finish(self, step: int) -> float | None:
        """Wait for the members and publish the version; the longest pause in seconds, None when it was not published.

        The first version of a learner needs a member that serves it; a later one is also published when no generator
        is left, so that the run can go on as soon as one comes back.
        """
        pauses = [await update for update in self._updates]
        self._updates = []
        version = self._version(step)
        served = [one.served == version for one in self._subscribers.values()]
        if not any(served) and (not self._published or served):
            return None
        await self._bus.weights.publish_version(version, self._epoch)
        self._published = True
        return max(pauses, default=0.0)

    async def _update(self, subscriber: Subscriber, version: pb.Version, update: asyncio.Task[float]) -> float:
        """Wait for one member's update; seconds it was paused. A failure forgets the member and returns 0."""
        began = time.monotonic()
        try:
            pause_s = await unless_gone(subscriber.gone, update)
            subscriber.served = version
        except FAILURES as error:
            await self._forget(subscriber)
            # One that has died or lost its engine comes back as another.
            cost_s = time.monotonic() - began if self._subscribers and not subscriber.gone.done() else 0.0
            await self._failed(subscriber.generator_id, "update", error, cost_s)
            return 0.0
        finally:
            subscriber.busy = False
        if self._quarantine.served(subscriber.generator_id):
            message = f"{subscriber.generator_id} has the weights again"
            await self._alert("generator_back", subscriber.generator_id, message)
        return pause_s
