"""Deletes payloads that nobody needs any more."""

from collections.abc import Mapping, Sequence

from dapo.bus.parts.part import Context, Part, chunks
from dapo.bus.parts.payloads import Payloads, attempts_until
from dapo.bus.parts.records import read_hashes
from dapo.v1 import messages_pb2 as pb

_CHUNK = 64
"""Groups of one script call: short enough (about 1 ms) not to hold up the server."""
_ARCHIVE = 4096
"""Records of finished groups kept for questions about the past: some 20 MB for groups of 16."""


class Garbage(Part):
    """Groups whose payloads can go: they were discarded, or a checkpoint covers them.

    Keys: `garbage`, the set of marked groups; `archive`, the list of those whose payloads are gone, oldest first.
    Promises: a marked group loses all its payloads, those of dead and of slow writers too, and then the mark; its
    record stays until 4,096 newer ones were archived.
    Restart: marks are in Redis, so the next sweep finishes what one that was cut short has left.
    """

    def __init__(self, context: Context, payloads: Payloads) -> None:
        super().__init__(context)
        self._payloads = payloads

    async def sweep(self, group_ids: Sequence[str] | None = None) -> None:
        """Deletes the payloads of marked groups: those of the ones named, or of all."""
        if group_ids is None:
            marked = await self._control.run(self._control.client.smembers, self._keys.garbage)
            group_ids = sorted(group_id.decode() for group_id in marked)
        for chunk in chunks(group_ids, _CHUNK):
            flags = await self._control.run(self._control.client.smismember, self._keys.garbage, list(chunk))
            known = [group_id for group_id, flag in zip(chunk, flags, strict=True) if flag]
            if known:
                hashes = await read_hashes(self._context, known)
                await self._payloads.delete([key for found in hashes for key in self._blobs(*found)])
                await self._script("retire_groups", _ARCHIVE, *known)

    def _blobs(self, group_id: str, fields: Mapping[bytes, bytes]) -> set[str]:
        """Every payload key the group can have: those of accepted completions, of all tries of all deliveries, and of
        unfinished responses."""
        keys = set()
        for index in range(int(fields.get(b"size", 0))):
            keys.add(self._keys.partial(group_id, index))
            for attempt in attempts_until(int(fields[b"attempts"])):
                keys |= {self._keys.payload(group_id, index, attempt), self._keys.text(group_id, index, attempt)}
            accepted = fields.get(b"completion:%d" % index)
            if accepted is not None:
                completion = pb.Completion.FromString(accepted)
                keys |= {completion.payload_key, completion.text_key}
        return keys - {""}
