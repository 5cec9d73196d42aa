"""Entries that nobody can process."""

from collections.abc import Mapping

from dapo.bus.failures import FailureReason
from dapo.bus.parts.part import Part, new_nonce

KEPT = 10_000
"""Dead letters kept, about; older ones leave."""


class DeadLetters(Part):
    """What was taken out of circulation, with the reason.

    Keys: `dead`, a stream of about 10,000 entries.
    Promises: the letter, the failure of its group, the acknowledgement of its entry and the notice on `scored` are one
    step, so nothing waits for a group whose entry is gone.
    Restart: all of it is in Redis and outlives the run's end.
    """

    async def file(
        self,
        group_id: str,
        reason: FailureReason,
        detail: str,
        stream: str = "",
        message_id: str = "",
        data: bytes = b"",
    ) -> bytes:
        """Files an entry; fails `group_id`, if any, and acknowledges the message, in one step.

        b"written", or b"closed" where the group was scored or settled before.
        """
        return await self._script("fail_group", new_nonce(), group_id, reason, detail, stream, message_id, data, KEPT)

    async def read(self, count: int = 100) -> list[dict[str, str]]:
        """The newest first: id, group, reason, detail, stream, message_id, data (hexadecimal)."""
        found = await self._control.run(self._control.client.xrevrange, self._keys.dead, count=count)
        return [_letter(*entry) for entry in found]

    async def find(self, letter_id: str) -> dict[str, str] | None:
        """The one of that id, unless it has left."""
        found = await self._control.run(self._control.client.xrange, self._keys.dead, letter_id, letter_id)
        return _letter(*found[0]) if found else None


def _letter(entry: bytes, fields: Mapping[bytes, bytes]) -> dict[str, str]:
    letter = {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
    return {**letter, "id": entry.decode(), "data": fields[b"data"].hex()}
