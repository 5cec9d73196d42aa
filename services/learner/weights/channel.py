"""What a sender has of one generator: its weight group, how it joins and how it is updated."""

import asyncio
from collections.abc import Awaitable, Sequence

from torch import Tensor

from dapo.v1 import messages_pb2 as pb
from services.learner.weights.dialogue import Dialogue, MemberFailed
from services.learner.weights.patience import Allowance, GroupCalls, Progress
from services.learner.weights.transport import WeightGroup, WeightGroupError

FAILURES = (MemberFailed, WeightGroupError, TimeoutError)
"""What `join` and `update` raise."""


class Channel:
    """A generator, and the group that its engine joins or has joined.

    A channel that has failed is of no further use: it is closed, and the generator gets another.
    """

    def __init__(self, generator_id: str, group: WeightGroup, dialogue: Dialogue, calls: GroupCalls) -> None:
        self.generator_id = generator_id
        self.group = group
        self._dialogue = dialogue
        self._calls = calls
        self._described = False
        """Whether the generator knows from an update of this group what the buckets hold."""

    def close(self) -> None:
        """Free the group, in a thread: that may take until a broadcast under way meets its timeout."""
        self._calls.start(self.generator_id, self.group.close)

    async def join(self, address: str, deadline: float) -> None:
        """Have the generator's engine join, within `deadline` seconds. Raises FAILURES."""
        join = pb.JoinGroup(
            group_name=self.group.name,
            master_address=address,
            master_port=self.group.port,
            world_size=self.group.world_size,
            backend=self.group.backend,
        )
        async with asyncio.timeout(deadline):
            serial = await self._dialogue.command(self.generator_id, pb.WeightCommand(deadline_s=deadline, join=join))
            await _together(
                self._calls.run(self.generator_id, self.group.join, deadline),
                self._dialogue.reply(self.generator_id, serial, phase="done"),
            )

    async def update(
        self,
        version: pb.Version,
        buckets: Sequence[pb.WeightBucket],
        queue: asyncio.Queue[Tensor],
        progress: Progress,
        deadline: float,
        ready_s: float,
    ) -> float:
        """Bring the generator to `version`; seconds that it was paused. The buckets come out of `queue`, and `progress`
        is kept.

        It has `ready_s` seconds to be ready, and `deadline` from then on, waits for the queue not counted. Raises
        FAILURES.
        """
        described = [] if self._described else buckets
        update = pb.UpdateWeights(group_name=self.group.name, version=version, buckets=described)
        async with asyncio.timeout(ready_s):
            command = pb.WeightCommand(deadline_s=deadline, update=update)
            serial = await self._dialogue.command(self.generator_id, command)
            await self._dialogue.reply(self.generator_id, serial, phase="ready")
        # The replies are watched during the broadcasts: a refused bucket must not cost the whole deadline.
        done = asyncio.ensure_future(self._dialogue.reply(self.generator_id, serial, phase="done"))
        sending = self._send(queue, progress, len(buckets), Allowance(deadline), done)
        _, reply = await _together(sending, done)
        self._described = True
        return reply.pause_s

    async def _send(
        self,
        queue: asyncio.Queue[Tensor],
        progress: Progress,
        count: int,
        allowance: Allowance,
        done: asyncio.Future[pb.WeightReply],
    ) -> None:
        """All buckets; returns once the generator has said that it is done, or has failed."""
        for _ in range(count):
            bucket = await queue.get()
            progress.since = asyncio.get_running_loop().time()
            async with allowance.running():
                await self._calls.run(self.generator_id, self.group.broadcast, bucket, allowance.left_s)
            del bucket  # It would stay in memory until the next one is there.
            progress.sent += 1
            progress.since = None
        async with allowance.running():
            await asyncio.wait({done})


async def _together(sending: Awaitable[None], replying: Awaitable[pb.WeightReply]) -> tuple[None, pb.WeightReply]:
    """Both results; when one raises, the other is cancelled and the error goes up."""
    tasks = (asyncio.ensure_future(sending), asyncio.ensure_future(replying))
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
