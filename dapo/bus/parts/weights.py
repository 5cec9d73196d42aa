"""The weight channel's control: members, commands to them, their replies, the published version."""

from typing import TypeVar

from google.protobuf.message import DecodeError

from dapo.bus.errors import BusError
from dapo.bus.parts.runs import Runs
from dapo.v1 import messages_pb2 as pb

_CHANNEL = 64
"""Commands and replies kept per generator: a few rounds, as each round carries the names of all tensors."""

M = TypeVar("M", pb.WeightCommand, pb.WeightReply, pb.StepReport)


class Weights(Runs):
    async def publish_member(self, member: pb.Member) -> None:
        await self._control("HSET", self.keys.members, member.generator_id, member.SerializeToString())

    async def remove_member(self, generator_id: str) -> None:
        """Forgets the member and its channel."""
        await self._control("HDEL", self.keys.members, generator_id)
        channel = (self.keys.commands(generator_id), self.keys.replies(generator_id))
        await self.control.run(self.control.client.unlink, *channel)

    async def members(self) -> list[pb.Member]:
        """Generators whose heartbeat (role "generator") lives, by id."""
        stored = await self.control.run(self.control.client.hgetall, self.keys.members)
        if not stored:
            return []
        found = sorted((pb.Member.FromString(data) for data in stored.values()), key=lambda member: member.generator_id)
        beats = [self.keys.heartbeat("generator", member.generator_id) for member in found]
        alive = await self.control.run(self.control.client.mget, beats)
        return [member for member, beat in zip(found, alive, strict=True) if beat is not None]

    async def send_command(self, generator_id: str, command: pb.WeightCommand) -> None:
        await self._send(self.keys.commands(generator_id), command.SerializeToString())

    async def read_commands(
        self, generator_id: str, after: str, *, block_s: float
    ) -> list[tuple[str, pb.WeightCommand]]:
        """Commands after id `after` ("0": all that are kept; see `last_command_id`)."""
        return await self._messages(pb.WeightCommand, self.keys.commands(generator_id), after, block_s)

    async def last_command_id(self, generator_id: str) -> str:
        """Where a generator that has just started begins to read: commands to its predecessor are not for it."""
        newest = await self.control.run(self.control.client.xrevrange, self.keys.commands(generator_id), count=1)
        return newest[0][0].decode() if newest else "0"

    async def send_reply(self, generator_id: str, reply: pb.WeightReply) -> None:
        await self._send(self.keys.replies(generator_id), reply.SerializeToString())

    async def read_replies(self, generator_id: str, after: str, *, block_s: float) -> list[tuple[str, pb.WeightReply]]:
        return await self._messages(pb.WeightReply, self.keys.replies(generator_id), after, block_s)

    async def set_published_version(self, version: pb.Version, epoch: int) -> None:
        """The newest version that every ready member serves. Raises Fenced."""
        await self._script("set_version", epoch, version.SerializeToString())

    async def published_version(self) -> pb.Version | None:
        data = await self.control.run(self.control.client.get, self.keys.version)
        return None if data is None else pb.Version.FromString(data)

    async def _send(self, key: str, data: bytes) -> None:
        await self._control("XADD", key, "MAXLEN", _CHANNEL, "*", "data", data)

    async def _messages(self, kind: type[M], key: str, after: str, block_s: float) -> list[tuple[str, M]]:
        messages = []
        for entry, fields in await self._read(key, after, block_s=block_s, count=100):
            try:
                messages.append((entry, kind.FromString(fields[b"data"])))
            except (DecodeError, KeyError) as error:
                raise BusError(f"entry {entry} of {key} is no {kind.__name__}: {error}") from error
        return messages
