"""The weight channel's control: members, commands to them, their replies, the published version."""

import asyncio

from dapo.bus.parts.part import Context, Part
from dapo.bus.parts.registry import Registry
from dapo.v1 import messages_pb2 as pb

_CHANNEL = 64
"""Commands and replies kept per generator: a few rounds. The first of a weight group has the names of all tensors."""
_ORDERS = 1024
"""Orders kept for a rank, and reports of all ranks: some for each member, which are read as they come."""
_CHANNEL_MS = 3_600_000
"""A channel on which nothing was said for so long expires; whoever used it has read it, or is dead."""


class Weights(Part):
    """What learner and generators say to each other about weights; the weights themselves take another way.

    Keys: `members`, a hash of pb.Member by generator id; `commands:<generator>` and `replies:<generator>`, streams of
    64 entries; `orders:<rank>` and `reports`, between the learner's rank 0 and its other ranks that send, streams of
    1024; `version`, the newest that every ready member serves.
    Promises: commands and replies keep their order; only the newest learner publishes a version. What a dead generator
    leaves goes: its record by `forget_dead`, its channel an hour after the last word.
    Restart: a generator that starts anew begins behind the last command and registers without a version. A learner
    that does reads the published version and joins everybody again. All of it is in Redis.
    """

    def __init__(self, context: Context, registry: Registry) -> None:
        super().__init__(context)
        self._registry = registry
        self._dead_since: dict[str, float] = {}

    async def publish_member(self, member: pb.Member) -> None:
        await self._write("HSET", self._keys.members, member.generator_id, member.SerializeToString())

    async def remove_member(self, generator_id: str) -> None:
        """Forgets the member and its channel."""
        await self._write("HDEL", self._keys.members, generator_id)
        channel = (self._keys.commands(generator_id), self._keys.replies(generator_id))
        await self._script("delete_keys", *channel)

    async def forget_dead(self, after_s: float) -> list[str]:
        """Deletes the records of generators that were dead at each call, for `after_s` at least. Returns their ids.

        One that comes back meanwhile publishes its record again with its next heartbeat.
        """
        stored = await self._control.run(self._control.client.hkeys, self._keys.members)
        known = [generator_id.decode() for generator_id in stored]
        alive = await self._registry.alive("generator", known)
        now = asyncio.get_running_loop().time()
        self._dead_since = {one: self._dead_since.get(one, now) for one in known if one not in alive}
        gone = sorted(one for one, since in self._dead_since.items() if now - since >= after_s)
        if gone:
            await self._write("HDEL", self._keys.members, *gone)
        return gone

    async def members(self) -> list[pb.Member]:
        """Generators that are alive, by id."""
        stored = await self._control.run(self._control.client.hgetall, self._keys.members)
        found = sorted((pb.Member.FromString(data) for data in stored.values()), key=lambda member: member.generator_id)
        alive = await self._registry.alive("generator", [member.generator_id for member in found])
        return [member for member in found if member.generator_id in alive]

    async def send_command(self, generator_id: str, command: pb.WeightCommand) -> None:
        await self._send(self._keys.commands(generator_id), command.SerializeToString())

    async def read_commands(
        self, generator_id: str, after: str, *, block_s: float
    ) -> list[tuple[str, pb.WeightCommand]]:
        """Commands after id `after` ("0": all that are kept; see `last_command_id`)."""
        key = self._keys.commands(generator_id)
        return await self._context.read_messages(pb.WeightCommand, key, after, block_s=block_s)

    async def age_s(self, command_id: str) -> float:
        """Seconds since this command was sent, both by the server's clock, as those of hosts differ."""
        seconds, microseconds = await self._control.run(self._control.client.time)
        return float(seconds) + float(microseconds) / 1e6 - int(command_id.partition("-")[0]) / 1e3

    async def last_command_id(self, generator_id: str) -> str:
        """Where a generator that has just started begins to read: commands to its predecessor are not for it."""
        newest = await self._control.run(self._control.client.xrevrange, self._keys.commands(generator_id), count=1)
        return newest[0][0].decode() if newest else "0"

    async def send_reply(self, generator_id: str, reply: pb.WeightReply) -> None:
        await self._send(self._keys.replies(generator_id), reply.SerializeToString())

    async def read_replies(self, generator_id: str, after: str, *, block_s: float) -> list[tuple[str, pb.WeightReply]]:
        key = self._keys.replies(generator_id)
        return await self._context.read_messages(pb.WeightReply, key, after, block_s=block_s)

    async def send_order(self, rank: int, order: pb.SenderOrder) -> None:
        await self._send(self._keys.orders(rank), order.SerializeToString(), _ORDERS)

    async def read_orders(self, rank: int, after: str, *, block_s: float) -> list[tuple[str, pb.SenderOrder]]:
        """Orders after id `after` ("0": all that are kept, also of an earlier learner)."""
        return await self._context.read_messages(pb.SenderOrder, self._keys.orders(rank), after, block_s=block_s)

    async def send_report(self, report: pb.SenderReport) -> None:
        await self._send(self._keys.reports, report.SerializeToString(), _ORDERS)

    async def read_reports(self, after: str, *, block_s: float) -> list[tuple[str, pb.SenderReport]]:
        """Reports after id `after` ("0": all that are kept, also of an earlier learner)."""
        return await self._context.read_messages(pb.SenderReport, self._keys.reports, after, block_s=block_s)

    async def publish_version(self, version: pb.Version, epoch: int) -> None:
        """The newest version that every ready member serves. Raises Fenced."""
        await self._script("set_version", epoch, version.SerializeToString())

    async def published_version(self) -> pb.Version | None:
        data = await self._control.run(self._control.client.get, self._keys.version)
        return None if data is None else pb.Version.FromString(data)

    async def _send(self, key: str, data: bytes, most: int = _CHANNEL) -> None:
        await self._append(key, most, "data", data, exactly=True)
        await self._write("PEXPIRE", key, _CHANNEL_MS)
