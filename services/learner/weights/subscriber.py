"""One generator as rank 0 keeps it: who sends to it, what it was last brought to, and whether it is still there."""

import asyncio

from dapo.v1 import messages_pb2 as pb

_DEAD = "its heartbeat has stopped"
_ENGINE_LOST = "its engine was lost"


class Subscriber:
    """A generator that joins or has joined a weight group, the rank that sends to it, and the version it serves.

    One that has failed is forgotten; the generator that comes back is another subscriber.
    """

    def __init__(self, generator_id: str, group_name: str, rank: int) -> None:
        self.generator_id = generator_id
        self.group_name = group_name
        self.rank = rank
        self.served: pb.Version | None = None
        self.busy = True
        """Whether a join or an update is under way."""
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Has a reason once `give_up` was called."""

    def give_up(self, reason: str) -> None:
        """Have a join or update under way fail at once, because the generator or its engine is gone."""
        if not self.gone.done():
            self.gone.set_result(reason)

    def why_gone(self, member: pb.Member | None) -> str | None:
        """Why the generator, whose record is `member` now, cannot be sent weights any more; None where it can."""
        if member is None:
            return _DEAD
        if member.state == "starting" or (self.served is not None and not member.HasField("version")):
            return _ENGINE_LOST
        # One that has begun to keep its weights refuses by itself.
        if member.state in ("ready", "updating") or (self.busy and member.state == "evaluating"):
            return None
        return f"it is {member.state}"
