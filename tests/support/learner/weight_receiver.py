"""A generator as the learner's publisher sees it: real gloo and a real bus, no engine.

`python -m tests.support.learner.weight_receiver URL NAME` is one in a process of its own, which can be killed.
"""

import asyncio
import math
import sys
from datetime import timedelta

import torch
from torch import Tensor

from dapo.bus import Bus
from dapo.bus.parts.registry import HEARTBEAT_TTL_S
from dapo.host.processes import die_with_parent
from dapo.v1 import messages_pb2 as pb
from tests.support.bus import RUN
from tests.support.receiving import ReceivingGroup

TIMEOUT = timedelta(seconds=120)
"""Of a broadcast. Far longer than a heartbeat lasts: in it one waits until a member that has died is judged."""
BEAT_S = 2.0
READY_S = 3.0
BUCKET_S = 0.2
"""Of one in a process of its own: slow enough to be killed in the middle of an update."""


class Receiver:
    """A generator as the learner sees it. `fault` says at which command it misbehaves, and how.

    "refuse-update" answers failed in place of entering the collective, "hang-update" says ready and never enters it,
    "hang-ready" does not answer at all, "slow-ready" after READY_S, "hang-join" never joins; None does everything
    right. `bucket_s` is how long it takes over each bucket, `alive_s` how long it counts as alive after it has said
    something of itself: longer than any test takes.
    """

    def __init__(
        self, bus: Bus, name: str, fault: str | None = None, *, bucket_s: float = 0.0, alive_s: float = 3600.0
    ) -> None:
        self.bus = bus
        self.name = name
        self.fault = fault
        self.bucket_s = bucket_s
        self.alive_s = alive_s
        self.received: list[list[Tensor]] = []
        self.group: ReceivingGroup | None = None
        self.buckets: list[pb.WeightBucket] = []
        self.member = pb.Member(generator_id=name, tensor_parallel=1, state="ready")

    async def announce(self) -> None:
        await self.bus.registry.beat("generator", self.name, ttl_s=self.alive_s)
        await self.bus.weights.publish_member(self.member)

    async def run(self) -> None:
        await self.announce()
        after = "0"
        while True:
            for position, command in await self.bus.weights.read_commands(self.name, after, block_s=0.2):
                after = position
                try:
                    await self.obey(command)
                except RuntimeError as error:  # The learner has left the group.
                    await self.reply(command, "failed", error=str(error))

    async def obey(self, command: pb.WeightCommand) -> None:
        if command.HasField("join"):
            self.buckets = []
            if self.fault != "hang-join":
                await asyncio.to_thread(self.join, command.join, timedelta(seconds=command.deadline_s))
                await self.reply(command, "done")
        elif self.fault == "refuse-update":
            await self.reply(command, "failed", error="no such tensor")
        else:
            if self.fault == "hang-ready":
                return
            if self.fault == "slow-ready":
                await asyncio.sleep(READY_S)
            await self.reply(command, "ready")
            if self.fault != "hang-update":
                self.received.append([])
                self.buckets = list(command.update.buckets) or self.buckets
                for bucket in self.buckets:
                    self.received[-1].append(await asyncio.to_thread(self.receive, bucket))
                    await asyncio.sleep(self.bucket_s)
                self.member.version.CopyFrom(command.update.version)
                await self.announce()
                await self.reply(command, "done")

    async def reply(self, command: pb.WeightCommand, phase: str, error: str = "") -> None:
        await self.bus.weights.send_reply(self.name, pb.WeightReply(serial=command.serial, phase=phase, error=error))

    def join(self, join: pb.JoinGroup, timeout: timedelta) -> None:
        self.group = ReceivingGroup(
            join.group_name, join.master_address, join.master_port, join.world_size, join.backend, timeout
        )

    def receive(self, bucket: pb.WeightBucket) -> Tensor:
        sizes = [math.prod(t.shape) * getattr(torch, t.dtype).itemsize for t in bucket.tensors]
        assert self.group is not None
        return self.group.receive(sum(sizes), TIMEOUT)


async def main(url: str, name: str) -> None:
    bus = await Bus.connect(url, RUN)
    receiver = Receiver(bus, name, bucket_s=BUCKET_S, alive_s=HEARTBEAT_TTL_S)

    async def beat() -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            await receiver.announce()

    await asyncio.gather(receiver.run(), beat())


if __name__ == "__main__":
    die_with_parent()
    asyncio.run(main(*sys.argv[1:]))
