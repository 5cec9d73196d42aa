"""Rank 0's orders to the other ranks that send weights, and their reports, over the bus."""

import asyncio
import itertools
from collections.abc import Awaitable, Sequence
from functools import partial

from dapo.bus.roles import LearnerBus
from dapo.v1 import messages_pb2 as pb
from services.learner.weights.channel import FAILURES
from services.learner.weights.dialogue import MemberFailed
from services.learner.weights.sender import Round, Sender

_BLOCK_S = 1.0
_SLACK_S = 30.0
"""How much longer than its members a rank may take to report of them."""
_COLLECTIVE_S = 1800.0
"""Bound on waits of one rank for another; as long as the collectives of the learner's ranks wait."""


class Reports:
    """What the other ranks report to rank 0 of one learner (`epoch`). Lives on the control loop of rank 0.

    `listen`, called again and again, reads them; `order` gives one and what will be reported of it. A
    report that nobody waits for is passed over. Nothing survives a restart: those of an older learner say so.
    """

    def __init__(self, bus: LearnerBus, epoch: int) -> None:
        self._bus = bus
        self._epoch = epoch
        self._after = "0"
        self._serials = itertools.count(1)
        self._expected: dict[tuple[int, str], asyncio.Future[pb.SenderReport]] = {}

    async def listen(self) -> None:
        """Read what has come; waits a second at most."""
        for position, report in await self._bus.weights.read_reports(self._after, block_s=_BLOCK_S):
            self._after = position
            future = self._expected.get((report.serial, report.group_name))
            if report.incarnation == self._epoch and future is not None and not future.done():
                future.set_result(report)

    async def order(
        self, rank: int, order: pb.SenderOrder, group_names: Sequence[str] = ()
    ) -> dict[str, asyncio.Future[pb.SenderReport]]:
        """Give the order; of each of these groups the report that will come."""
        order.serial = next(self._serials)
        order.incarnation = self._epoch
        expected: dict[str, asyncio.Future[pb.SenderReport]] = {
            name: asyncio.get_running_loop().create_future() for name in group_names
        }
        for name, future in expected.items():
            key = (order.serial, name)
            self._expected[key] = future
            future.add_done_callback(partial(self._settled, key))
        await self._bus.weights.send_order(rank, order)
        return expected

    def _settled(self, key: tuple[int, str], _: asyncio.Future[pb.SenderReport]) -> None:
        del self._expected[key]


async def _pause_s(report: asyncio.Future[pb.SenderReport], rank: int, within_s: float) -> float:
    """The pause in seconds that `rank` reports. Raises FAILURES, as it reports, or after `within_s` without a word."""
    try:
        async with asyncio.timeout(within_s):
            said = await report
    except TimeoutError:
        raise MemberFailed(f"learner rank {rank}, which sends to it, has said nothing for {within_s:g} s") from None
    if said.phase == "late":
        raise TimeoutError
    if said.phase == "failed":
        raise MemberFailed(said.error)
    return said.pause_s


class RemoteSender:
    """Another rank's Sender, as rank 0 orders it: the same verbs, carried out by the OrderedSender there."""

    def __init__(self, reports: Reports, rank: int, *, join_s: float, update_s: float) -> None:
        """`join_s`, `update_s`: how long a member may take to join, and to be ready for an update and take it."""
        self._reports = reports
        self._rank = rank
        self._join_s = join_s + _SLACK_S
        self._update_s = update_s + _COLLECTIVE_S

    async def join(self, member: pb.Member, group_name: str) -> None:
        """Have the generator join a group of that rank. Raises FAILURES."""
        join = pb.SendJoin(member=member, group_name=group_name)
        expected = await self._reports.order(self._rank, pb.SenderOrder(join=join), [group_name])
        await _pause_s(expected[group_name], self._rank, self._join_s)

    async def begin(self, version: pb.Version, group_names: list[str]) -> dict[str, asyncio.Task[float]]:
        """Have the rank send the version to these members: to be called for each version, also where they are none.
        Each task gives the seconds that a member was paused, or raises FAILURES."""
        update = pb.SendUpdate(version=version, group_names=group_names)
        expected = await self._reports.order(self._rank, pb.SenderOrder(update=update), group_names)
        return {
            name: asyncio.create_task(_pause_s(report, self._rank, self._update_s)) for name, report in expected.items()
        }

    async def drop(self, group_name: str) -> None:
        """Have the rank end what is under way for this member, and free its group."""
        await self._reports.order(self._rank, pb.SenderOrder(drop=pb.SendDrop(group_name=group_name)))


class OrderedSender:
    """Carries out rank 0's orders by this rank's Sender, and reports. Lives on the control loop of a rank above 0.

    `listen`, called again and again, takes orders as they come, in their order, and waits for none to end. A version
    that was ordered is begun at once; the main thread takes it up with `begun` and sends its buckets. Orders of an
    older learner are passed over; nothing survives a restart.
    """

    def __init__(self, bus: LearnerBus, epoch: int, rank: int, sender: Sender) -> None:
        self._bus = bus
        self._epoch = epoch
        self._rank = rank
        self._sender = sender
        self._after = "0"
        self._rounds: asyncio.Queue[tuple[pb.Version, Round]] = asyncio.Queue()
        self._working: dict[str, asyncio.Task[None]] = {}

    async def listen(self) -> None:
        """Take what has come; waits a second at most. Raises what a report could not be sent for."""
        for position, order in await self._bus.weights.read_orders(self._rank, self._after, block_s=_BLOCK_S):
            self._after = position
            if order.incarnation == self._epoch:
                self._take(order)
        for name, task in list(self._working.items()):
            if task.done():
                del self._working[name]
                if not task.cancelled():
                    task.result()

    def _take(self, order: pb.SenderOrder) -> None:
        kind = order.WhichOneof("order")
        if kind == "join":
            name = order.join.group_name
            self._start(order, name, self._sender.join(order.join.member, name))
        elif kind == "update":
            begun = self._sender.begin(order.update.version, order.update.group_names)
            for name, task in begun.updates.items():
                self._start(order, name, task)
            self._rounds.put_nowait((order.update.version, begun))
        else:
            if (working := self._working.pop(order.drop.group_name, None)) is not None:
                working.cancel()
            self._sender.drop(order.drop.group_name)

    def _start(self, order: pb.SenderOrder, group_name: str, work: Awaitable[float | None]) -> None:
        self._working[group_name] = asyncio.create_task(self._report(order.serial, group_name, work))

    async def _report(self, serial: int, group_name: str, work: Awaitable[float | None]) -> None:
        report = pb.SenderReport(serial=serial, group_name=group_name, phase="done", incarnation=self._epoch)
        try:
            report.pause_s = await work or 0.0
        except FAILURES as error:
            report.phase = "late" if isinstance(error, TimeoutError) else "failed"
            report.error = str(error)
        await self._bus.weights.send_report(report)

    async def begun(self, step: int) -> Round:
        """The next version that rank 0 has ordered, which is to be `step`. Raises RuntimeError where it is another, or
        none was ordered for as long as a collective may take."""
        try:
            async with asyncio.timeout(_COLLECTIVE_S):
                version, begun = await self._rounds.get()
        except TimeoutError:
            raise RuntimeError(f"rank 0 has ordered no update to step {step} for {_COLLECTIVE_S:g} s") from None
        if version.step != step:
            raise RuntimeError(f"rank 0 has ordered an update to step {version.step}, this rank is at step {step}")
        return begun
