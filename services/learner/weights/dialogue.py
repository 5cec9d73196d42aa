"""Commands to generators and their replies, over the bus."""

import itertools

from dapo.bus.roles import LearnerWeights
from dapo.v1 import messages_pb2 as pb

_BLOCK_S = 1.0


class MemberFailed(Exception):
    """The generator answered that it could not do what was asked, or is gone."""


class Dialogue:
    """What one rank of a learner (`epoch`) of `ranks` says to the generators of its run, and what they answer.

    A command is known by its serial, which no other rank and no other learner of the run uses. Of each generator one
    coroutine at a time may wait for a reply. Waits without limit: callers bound it.
    """

    def __init__(self, weights: LearnerWeights, epoch: int, rank: int = 0, ranks: int = 1) -> None:
        self._weights = weights
        self._epoch = epoch
        self._serials = itertools.count((epoch << 32) + rank, ranks)
        self._cursors: dict[str, str] = {}

    async def command(self, generator_id: str, command: pb.WeightCommand) -> int:
        """Send it; its serial."""
        command.serial = next(self._serials)
        command.incarnation = self._epoch
        await self._weights.send_command(generator_id, command)
        return command.serial

    async def reply(self, generator_id: str, serial: int, *, phase: str) -> pb.WeightReply:
        """The reply to `serial` in this phase. Raises MemberFailed when the generator says so."""
        while True:
            after = self._cursors.get(generator_id, "0")
            for position, reply in await self._weights.read_replies(generator_id, after, block_s=_BLOCK_S):
                self._cursors[generator_id] = position
                if reply.serial != serial:
                    continue
                if reply.phase == "failed":
                    raise MemberFailed(reply.error)
                if reply.phase == phase:
                    return reply
