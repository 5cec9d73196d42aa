"""What one learner rank does for its members: open their groups, have them join, pump the buckets of a version."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

from torch import Tensor

from dapo.bus.roles import LearnerBus
from dapo.spec.tree.training import WeightSyncSpec
from dapo.v1 import messages_pb2 as pb
from services.learner.weights.channel import Channel
from services.learner.weights.dialogue import Dialogue, MemberFailed
from services.learner.weights.patience import GroupCalls, Progress, laggards, unless_gone
from services.learner.weights.transport import DEVICE_OF, WeightGroup, choose_backend

QUEUED_BUCKETS = 2
"""Buckets that wait for one member. Two more may be in memory for it: one on the wire, one that is handed on."""
_LOOK_S = 0.25
"""How often members are looked at that may lag."""
_LINGERING_CALLS = 3
"""So many calls on a generator's earlier groups may still wait for their timeouts when it joins another."""


@dataclass(slots=True)
class Pump:
    """One member's update under way: buckets go in at the queue, seconds of pause come out of the task."""

    queue: asyncio.Queue[Tensor]
    task: asyncio.Task[float]
    progress: Progress
    gone: asyncio.Future[str]
    """Given a reason, the update fails with it at once."""

    async def hand(self, bucket: Tensor) -> bool:
        """Put the bucket into the queue, waiting while it is full; False once the update has ended."""
        put = asyncio.ensure_future(self.queue.put(bucket))
        await asyncio.wait({put, self.task}, return_when=asyncio.FIRST_COMPLETED)
        put.cancel()
        return not self.task.done()


class Shelf:
    """The buckets of one version, each made in a thread when the first member comes to it, and shared with those that
    need it while somebody still holds it. It holds none by itself."""

    def __init__(self, make: Callable[[int], Tensor]) -> None:
        self._make = make
        self._made: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
        self._making = asyncio.Lock()

    async def bucket(self, position: int) -> Tensor:
        async with self._making:
            found = self._made.get(position)
            if found is None:
                found = await asyncio.to_thread(self._make, position)
                self._made[position] = found
            return found


class Round:
    """One version on its way to members of one rank, each with a pump of its own.

    The buckets come either by `feed`, one after the other for all members, which then wait for the slowest while its
    queue is full; or by `draw`, from where each member takes them at its own pace.
    """

    def __init__(self, pumps: Mapping[str, Pump], count: int, lag_s: float) -> None:
        """`pumps` by group name; `count` buckets; `lag_s` as `weight_sync.lag_deadline_s`."""
        self._pumps = dict(pumps)
        self._count = count
        self._lag_s = lag_s
        self._watching = asyncio.create_task(self._watch())

    @property
    def updates(self) -> dict[str, asyncio.Task[float]]:
        """By group name; each gives the seconds that the member was paused, or raises FAILURES."""
        return {name: pump.task for name, pump in self._pumps.items()}

    async def feed(self, bucket: Tensor) -> None:
        """Hand the next bucket to every member that is still with us."""
        await asyncio.gather(*(pump.hand(bucket) for pump in self._pumps.values()))

    async def draw(self, make: Callable[[int], Tensor]) -> None:
        """Hand all buckets to each member as fast as that member takes them; `make` gives one by its position."""
        shelf = Shelf(make)

        async def supply(pump: Pump) -> None:
            for position in range(self._count):
                if pump.task.done() or not await pump.hand(await shelf.bucket(position)):
                    return

        await asyncio.gather(*(supply(pump) for pump in self._pumps.values()))

    async def _watch(self) -> None:
        """Give up those that lag, until all have ended."""
        while pending := [pump.task for pump in self._pumps.values() if not pump.task.done()]:
            await asyncio.wait(pending, timeout=_LOOK_S)
            progress = {name: pump.progress for name, pump in self._pumps.items()}
            for name in laggards(progress, self._count, asyncio.get_running_loop().time(), self._lag_s):
                pump = self._pumps[name]
                if not pump.gone.done():
                    pump.gone.set_result(
                        f"lags behind: {pump.progress.sent} of {self._count} buckets, and none for "
                        f"weight_sync.lag_deadline_s = {self._lag_s:g} s, while another went on"
                    )

    async def ended(self) -> None:
        """Wait until each member was updated, has failed or was dropped."""
        await self._watching


class Sender:
    """The weight groups of one rank's members. Lives on the rank's control loop.

    It does what rank 0's Publisher decides, which calls it, or has it called by an OrderedSender. A member's group has
    a name that is used once; by it the member is known here.

    Invariants:
    - groups share nothing, and each update has a task and a queue of its own (Pump): a member that fails touches no
      other;
    - one that stands still while another of this rank goes on is given up after `weight_sync.lag_deadline_s`;
    - at most QUEUED_BUCKETS + 2 buckets are in memory for a member, fewer where members keep pace with each other;
    - whatever has failed stays until it is dropped, and is of no further use.

    Nothing survives a restart. Waits for a member within the deadlines of `weight_sync`, see Channel.
    """

    def __init__(
        self,
        bus: LearnerBus,
        epoch: int,
        spec: WeightSyncSpec,
        buckets: Sequence[pb.WeightBucket],
        *,
        address: str,
        devices: Sequence[str],
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        """`address` and `devices` are this rank's, of `ranks`: where members reach it, and the GPUs that it sends from,
        as `device_names` has them."""
        self._spec = spec
        self._buckets = buckets
        self._address = address
        self._devices = tuple(devices)
        self._dialogue = Dialogue(bus.weights, epoch, rank, ranks)
        self._calls = GroupCalls()
        self._channels: dict[str, Channel] = {}
        self._pumps: dict[str, Pump] = {}

    @property
    def device(self) -> str:
        """Where buckets are wanted: "cuda" where a member is reached by NCCL, else "cpu". For any thread."""
        backends = {channel.group.backend for channel in list(self._channels.values())}
        return DEVICE_OF["nccl" if "nccl" in backends else "gloo"]

    async def join(self, member: pb.Member, group_name: str) -> None:
        """Open a group for this generator and have its engine join. Raises FAILURES."""
        if (lingering := self._calls.running(member.generator_id)) > _LINGERING_CALLS:
            raise MemberFailed(f"{lingering} calls on its earlier weight groups still wait for their timeouts")
        backend = choose_backend(self._spec.backend, self._devices, member.devices)
        world_size = 1 + max(1, member.tensor_parallel)
        group = WeightGroup(group_name, world_size, backend, self._spec.join_deadline_s, self._address)
        channel = Channel(member.generator_id, group, self._dialogue, self._calls)
        self._channels[group_name] = channel
        await channel.join(self._address, self._spec.join_deadline_s)

    def begin(self, version: pb.Version, group_names: Sequence[str]) -> Round:
        """Ask these members to make ready for the version; what is not known of here any more fails."""
        pumps = {name: self._pump(name, version) for name in group_names}
        self._pumps |= pumps
        return Round(pumps, len(self._buckets), self._spec.lag_deadline_s)

    def _pump(self, group_name: str, version: pb.Version) -> Pump:
        queue: asyncio.Queue[Tensor] = asyncio.Queue(QUEUED_BUCKETS)
        progress, gone = Progress(), asyncio.get_running_loop().create_future()
        update = unless_gone(gone, self._update(group_name, version, queue, progress))
        return Pump(queue, asyncio.create_task(update), progress, gone)

    async def _update(
        self, group_name: str, version: pb.Version, queue: asyncio.Queue[Tensor], progress: Progress
    ) -> float:
        channel = self._channels.get(group_name)
        if channel is None:
            raise MemberFailed(f"weight group {group_name} was closed")
        spec = self._spec
        return await channel.update(version, self._buckets, queue, progress, spec.update_deadline_s, spec.ready_s)

    def drop(self, group_name: str) -> None:
        """End what is under way for this member, and free its group."""
        if (pump := self._pumps.pop(group_name, None)) is not None:
            pump.task.cancel()
        if (channel := self._channels.pop(group_name, None)) is not None:
            channel.close()
