"""The senders of one learner and the generators that they serve: real gloo, a real bus, no engine."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from dapo.bus import Bus
from dapo.bus.server.embedded import EmbeddedValkey
from dapo.spec.tree.training import WeightSyncSpec
from dapo.v1 import messages_pb2 as pb
from services.learner.weights.orders import OrderedSender, RemoteSender, Reports
from services.learner.weights.publisher import Publisher
from services.learner.weights.sender import Round, Sender
from tests.support.bus import RUN
from tests.support.learner.weight_receiver import Receiver

WAIT_S = 120.0
"""Only what hangs takes so long, however busy the machine."""
BUCKETS = [torch.arange(100, dtype=torch.uint8), torch.arange(37, dtype=torch.uint8)]


def specs(buckets: list[Tensor]) -> list[pb.WeightBucket]:
    return [
        pb.WeightBucket(tensors=[pb.TensorSpec(name=f"tensor{i}", dtype="uint8", shape=[bucket.numel()])])
        for i, bucket in enumerate(buckets)
    ]


async def until(condition: Callable[[], Awaitable[bool]], publisher: Publisher) -> None:
    async with asyncio.timeout(WAIT_S):
        while not await condition():
            await publisher.refresh()
            await asyncio.sleep(0.02)


class Stage:
    """The senders of `ranks` learner ranks, and their receivers, on one event loop. All ranks have the same `buckets`,
    as at ZeRO 0 to 2; with `feeds` they are pushed one after the other, as under ZeRO 3."""

    buckets: ClassVar = BUCKETS
    ranks: ClassVar = 1
    feeds: ClassVar = True

    def __init__(self, bus: Bus, epoch: int, receivers: list[Receiver], **weight_sync: Any) -> None:
        self.bus = bus
        self.epoch = epoch
        self.receivers = receivers
        spec = WeightSyncSpec(**{"join_deadline_s": 20.0, "update_deadline_s": 20.0, **weight_sync})
        self.senders = [
            Sender(
                *(bus, epoch, spec, specs(self.buckets)),
                address="127.0.0.1",
                devices=(),
                rank=rank,
                ranks=self.ranks,
            )
            for rank in range(self.ranks)
        ]
        self.reports = Reports(bus, epoch)
        times = {"join_s": spec.join_deadline_s, "update_s": spec.ready_s + spec.update_deadline_s}
        others = {rank: RemoteSender(self.reports, rank, **times) for rank in range(1, self.ranks)}
        self.ordered = [OrderedSender(bus, epoch, rank, self.senders[rank]) for rank in range(1, self.ranks)]
        self.publisher = Publisher(bus, epoch, spec, self.senders[0], others, [f"host{r}" for r in range(self.ranks)])
        self.rounds: list[Round] = []

    async def listen(self) -> None:
        """What the ranks' control loops do all the time."""

        async def forever(listen: Callable[[], Awaitable[None]]) -> None:
            while True:
                await listen()

        if self.ordered:
            await asyncio.gather(*(forever(one.listen) for one in [self.reports, *self.ordered]))

    async def begin(self, step: int) -> None:
        """On all ranks."""
        self.rounds = [await self.publisher.begin(step), *[await one.begun(step) for one in self.ordered]]

    async def feed(self, bucket: Tensor) -> None:
        for begun in self.rounds:
            await begun.feed(bucket)

    async def joined(self, count: int) -> None:
        async def enough() -> bool:
            return len(self.publisher._subscribers) == count

        await until(enough, self.publisher)

    async def publish(self, step: int) -> float | None:
        await self.begin(step)
        if self.feeds:
            for bucket in self.buckets:
                await self.feed(bucket)
        else:
            await asyncio.gather(*(begun.draw(self.buckets.__getitem__) for begun in self.rounds))
        return await self.publisher.finish(step)

    async def published(self) -> tuple[int, int] | None:
        version = await self.bus.weights.published_version()
        return None if version is None else (version.incarnation, version.step)


Scenario = Callable[[Stage], Awaitable[None]]


def play(
    server: EmbeddedValkey,
    faults: dict[str, str | None],
    scenario: Scenario,
    *,
    kind: type[Stage] = Stage,
    **weight_sync: Any,
) -> None:
    """The scenario beside a receiver for each of `faults`."""

    async def main() -> None:
        bus = await Bus.connect(server.url, RUN)
        receivers = [Receiver(bus, name, fault) for name, fault in faults.items()]
        stage = kind(bus, await bus.lease.acquire("learner"), receivers, **weight_sync)
        tasks = [asyncio.create_task(run()) for run in [*(receiver.run for receiver in receivers), stage.listen]]
        try:
            await scenario(stage)
            for task in tasks:
                assert not task.done() or task.exception() is None
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await bus.close()

    asyncio.run(main())


def assert_received(receiver: Receiver, updates: int, buckets: list[Tensor] = BUCKETS) -> None:
    """It got all buckets so many times, as they were sent."""
    assert len(receiver.received) == updates
    for received in receiver.received:
        for found, sent in zip(received, buckets, strict=True):
            assert torch.equal(found, sent)
