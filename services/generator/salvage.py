"""What unfinished responses have by now, and how it outlives the engine or the generator that they were with."""

import asyncio
import logging
from collections.abc import Collection, Mapping, Sequence

from google.protobuf.message import DecodeError

from dapo.bus import BusError, BusFull
from dapo.bus.roles import GeneratorBus
from dapo.contracts.arrays import decode_ids, decode_logprobs
from dapo.contracts.events import Alert
from dapo.v1 import messages_pb2 as pb
from services.generator.engine.responses import NOTHING, EngineError, Prefix, Span, StreamedResponse, covers
from services.generator.membership import version_name
from services.generator.writer import build_payload

log = logging.getLogger(__name__)

LEAST_TOKENS = 8
"""A shorter prefix costs more to keep than to sample again."""
SAVED_TOKENS = 32
"""While it goes on a response is saved once it has so many, and whenever it is half as long again."""
ROOM_TOKENS = 8
"""At least so many of a response are sampled anew: SGLang 0.5.21 refuses an input that leaves less than seven of its
context."""
_MOST_LOSSES = 3
"""After so many engines or generators lost in a row a prompt begins anew: what was kept may be what ends them."""
_KEEP_S = 5.0
_TELL_S = 2.0


def grown(tokens: int, saved: int) -> bool:
    """Whether a response that goes on is to be saved again: by a constant factor, so that a long one costs no more than
    three times its length altogether."""
    return tokens >= max(SAVED_TOKENS, 1.5 * saved)


class Unfinished:
    """The responses that one prompt still lacks: what each begins with, and the requests under way. Pure.

    Between requests call `end`. A prefix from which a request got no further token is given up, unless that request
    was ended while it was well.
    """

    def __init__(self) -> None:
        self._prefixes: dict[int, Prefix] = {}
        self._running: dict[int, StreamedResponse] = {}

    def found(self, prefixes: Mapping[int, Prefix]) -> None:
        """Begin with these."""
        self._prefixes |= prefixes

    def begin(self, indices: Mapping[str, int], most: int, version: str | None = None) -> list[StreamedResponse]:
        """Responses for requests with these ids, of `most` tokens at most, ROOM_TOKENS or more yet to come.

        `version`: they go on from what these weights alone have sampled; None: from what any have.
        """
        for rid, index in indices.items():
            prefix = self._prefixes.get(index, NOTHING).cut(max(0, most - ROOM_TOKENS))
            fits = version is None or all(span.version == version for span in prefix.spans)
            useful = fits and len(prefix) >= LEAST_TOKENS
            self._running[index] = StreamedResponse.after(rid, prefix if useful else NOTHING)
        return list(self._running.values())

    def finished(self, index: int) -> None:
        self._prefixes.pop(index, None)
        self._running.pop(index, None)

    def end(self, *, well: bool) -> None:
        """All requests have ended. `well`: by our own wish."""
        for index, response in self._running.items():
            known = response.known()
            if well or len(known) > len(response.prefix):
                self._prefixes[index] = known
            else:
                self._prefixes.pop(index, None)
        self._running.clear()

    def sizes(self) -> dict[int, int]:
        """Tokens of what is worth keeping at this moment, by index."""
        found = {index: len(prefix) for index, prefix in self._prefixes.items()}
        found |= {index: response.known_tokens for index, response in self._running.items()}
        return {index: tokens for index, tokens in found.items() if tokens >= LEAST_TOKENS}

    def prefixes(self, indices: Collection[int] | None = None) -> dict[int, Prefix]:
        """What is worth keeping at this moment, by index: all, or that of these."""
        wanted = self.sizes() if indices is None else indices
        return {
            index: self._running[index].known() if index in self._running else self._prefixes[index] for index in wanted
        }


class Salvage:
    """Keeps prefixes of unfinished responses in Redis, beside the payloads, for whoever gets their prompt next.

    Invariants: a prefix is stored before its prompt is handed back; it is an exact beginning of a response, each token
    with the log-probability and the weights that it was sampled with; it is deleted with its group's payloads at the
    latest. One of another prompt's tokens is not used.

    Responses that go on are saved now and then (`grown`), so that with a process that is killed (SIGKILL) about a third
    of their tokens is lost at worst. Where Redis is full nothing is kept, and the responses are sampled again.
    """

    def __init__(self, bus: GeneratorBus, generator_id: str) -> None:
        self._bus = bus
        self._id = generator_id
        self._responses = self._tokens = 0

    async def find(
        self, group_id: str, prompt: Sequence[int], indices: Sequence[int], losses: int
    ) -> dict[int, Prefix]:
        """What was kept of these responses. `losses`: of engines or generators in a row that had this prompt."""
        if losses >= _MOST_LOSSES:
            return {}
        blobs = await self._bus.payloads.get([self._key(group_id, index) for index in indices])
        found = {index: read_prefix(blob, prompt) for index, blob in zip(indices, blobs, strict=True) if blob}
        return {index: prefix for index, prefix in found.items() if prefix}

    async def keep(self, group_id: str, prompt: Sequence[int], prefixes: Mapping[int, Prefix]) -> None:
        """Store what the group's responses have that were cut off."""
        kept = await self.save(group_id, prompt, prefixes)
        self._responses += len(kept)
        self._tokens += sum(len(prefix) for prefix in kept.values())

    async def save(self, group_id: str, prompt: Sequence[int], prefixes: Mapping[int, Prefix]) -> dict[int, Prefix]:
        """Store what the group's responses have, and return what was stored: not of those that it does not lack."""
        if not prefixes:
            return {}
        try:
            await self._bus.payloads.put(
                {
                    self._key(group_id, index): _payload(prompt, prefix).SerializeToString()
                    for index, prefix in prefixes.items()
                }
            )
        except (BusFull, EngineError) as error:
            log.info("unfinished responses of %s are not kept: %s", group_id, error)
            await self.forget(group_id, list(prefixes))
            return {}
        # In this order a group that is closed meanwhile leaves nothing: its sweep comes after.
        missing = set(await self._bus.groups.missing_indices(group_id))
        await self.forget(group_id, [index for index in prefixes if index not in missing])
        return {index: prefix for index, prefix in prefixes.items() if index in missing}

    async def forget(self, group_id: str, indices: Sequence[int]) -> None:
        if indices:
            await self._bus.payloads.delete([self._key(group_id, index) for index in indices])

    async def keep_all(self, unfinished: Mapping[str, tuple[Sequence[int], Mapping[int, Prefix]]]) -> None:
        """Of each group (prompt, prefixes), as this generator leaves. What Redis does not take within five seconds is
        lost."""
        try:
            async with asyncio.timeout(_KEEP_S):
                await asyncio.gather(*(self.keep(group_id, *kept) for group_id, kept in unfinished.items()))
                await self._tell()
        except (BusError, TimeoutError) as error:
            log.warning("unfinished responses were not kept: %s", str(error) or f"no answer for {_KEEP_S:g} s")

    async def run(self) -> None:
        """Tell what was kept, for ever."""
        while True:
            await asyncio.sleep(_TELL_S)
            await self._tell()

    async def _tell(self) -> None:
        if self._responses:
            message = (
                f"{self._id}: {self._responses} unfinished responses were cut off and are continued from the"
                f" {self._tokens} tokens that they have"
            )
            self._responses = self._tokens = 0
            log.info("%s", message)
            alert = Alert(cause="responses_salvaged", worker_id=self._id, message=message, severity="notice")
            await self._bus.runs.emit(alert)

    def _key(self, group_id: str, index: int) -> str:
        return self._bus.payloads.partial_key(group_id, index)


def _payload(prompt: Sequence[int], prefix: Prefix) -> pb.CompletionPayload:
    """Raises EngineError as `build_payload` does."""
    return build_payload(prompt, StreamedResponse.after("", prefix))


def read_prefix(blob: bytes, prompt: Sequence[int]) -> Prefix | None:
    """None for what cannot be read, or follows another prompt."""
    try:
        payload = pb.CompletionPayload.FromString(blob)
        ids, logprobs = decode_ids(payload.response_ids), decode_logprobs(payload.logprobs)
        follows = decode_ids(payload.prompt_ids) == list(prompt)
    except (DecodeError, ValueError) as error:
        log.warning("an unfinished response cannot be read: %s", error)
        return None
    spans = tuple(Span(version_name(span.version), span.start, span.end) for span in payload.spans)
    whole = follows and len(ids) == len(logprobs) and covers(spans, len(ids))
    return Prefix(tuple(ids), tuple(logprobs), spans) if whole else None
