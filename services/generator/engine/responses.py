"""What SGLang answers: events of a stream, the responses that they add up to, and failures.

No event is trusted: one that does not fit its response raises EngineError.
"""

import asyncio
import math
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import orjson

Finish = Literal["stop", "length", "abort"]

_ERROR_CHARACTERS = 2000
"""Of what SGLang answered, so many are quoted in an error."""


class EngineError(Exception):
    """The engine refused a request, broke off, or sent a malformed answer. `status` is None without an answer."""

    def __init__(self, route: str, detail: str, status: int | None = None) -> None:
        code = "no answer" if status is None else f"HTTP {status}"
        super().__init__(f"SGLang {route}: {code}: {detail[:_ERROR_CHARACTERS]}")
        self.route = route
        self.status = status


@dataclass(frozen=True)
class Span:
    """Tokens [start, end) of a response were sampled by the weights named `version`."""

    version: str
    start: int
    end: int


@dataclass(frozen=True)
class Prefix:
    """The first tokens of a response; another request goes on from them. The spans cover exactly [0, len(ids))."""

    ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    spans: tuple[Span, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def cut(self, tokens: int) -> "Prefix":
        """Its first `tokens`."""
        return Prefix(self.ids[:tokens], self.logprobs[:tokens], tuple(_cut(self.spans, tokens)))


NOTHING = Prefix()


@dataclass
class StreamedResponse:
    """One response's tokens so far; complete once `finish` is set to "stop" or "length".

    ids and logprobs are equally long, the stop token counted once in each. The spans cover [0, n) for some
    n ≤ len(ids): as far as the engine has told which weights sampled it; of a complete response n = len(ids).
    """

    rid: str
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    finish: Finish | None = None
    message: str = ""
    prefix: Prefix = NOTHING
    """What it began with: tokens of an earlier request, which the engine is given behind the prompt."""

    @classmethod
    def after(cls, rid: str, prefix: Prefix) -> "StreamedResponse":
        return cls(rid, list(prefix.ids), list(prefix.logprobs), list(prefix.spans), prefix=prefix)

    @property
    def known_tokens(self) -> int:
        """Of so many it is told which weights sampled them."""
        return self.spans[-1].end if self.spans else 0

    def known(self) -> Prefix:
        """The tokens of which it is told which weights sampled them."""
        whole = Prefix(tuple(self.ids), tuple(self.logprobs), tuple(self.spans))
        return whole.cut(self.known_tokens)

    def extend(self, event: Mapping[str, Any]) -> int:
        """Add one event. Returns the number of new tokens.

        Raises EngineError where fields are missing, or ids, logprobs and spans do not match.
        """
        try:
            return self._take(event)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            detail = f"request {self.rid}: an event without the expected fields ({error!r}): {event}"
            raise EngineError("/generate", detail, 200) from error

    def conclude(self, stop: Collection[int], most: int) -> None:
        """Complete it where an abort came with its last token: one of `stop`, or its number `most`."""
        whole = self.finish == "abort" and self._asked and covers(self.spans, len(self.ids))
        if whole and self.ids[-1] in stop:
            self.finish = "stop"
        elif whole and len(self.ids) == most:
            self.finish = "length"

    def cut(self, tokens: int) -> "StreamedResponse":
        """Its first `tokens`, at least one, as a response that stopped there."""
        spans = _cut(self.spans, tokens)
        return replace(self, ids=self.ids[:tokens], logprobs=self.logprobs[:tokens], spans=spans, finish="stop")

    def _take(self, event: Mapping[str, Any]) -> int:
        meta = event["meta_info"]
        reason = meta["finish_reason"]
        ids, entries = event["output_ids"], meta.get("output_token_logprobs") or ()
        fits = len(entries) == len(ids) and all(map(_fits, entries, ids))
        if reason is not None and reason["type"] == "abort":
            self.finish, self.message = "abort", str(reason.get("message", ""))
            # Of a request that waited in SGLang's queue the last token comes again.
            new = meta.get("completion_tokens", 0) - self._asked
            if not (fits and new == len(ids) > 0 and meta.get("weight_versions")):
                return 0
            reason = None
        if not fits:
            detail = f"request {self.rid}: tokens {ids} came with the log-probabilities {entries}"
            raise EngineError("/generate", detail, 200)
        self.ids += ids
        self.logprobs += [entry[0] for entry in entries]
        if reason is not None:
            self._end(meta, reason["type"])
        elif meta.get("weight_versions"):
            self._tell_spans(meta)
        return len(ids)

    @property
    def _asked(self) -> int:
        """Tokens that came of this request."""
        return len(self.ids) - len(self.prefix)

    def _end(self, meta: Mapping[str, Any], finish: str) -> None:
        if finish not in ("stop", "length"):
            raise EngineError("/generate", f"request {self.rid} ended with {finish!r}", 200)
        if not self._asked:
            raise EngineError("/generate", f"request {self.rid} ended without a token", 200)
        self._tell_spans(meta)
        self.finish = "stop" if finish == "stop" else "length"

    def _tell_spans(self, meta: Mapping[str, Any]) -> None:
        begun = len(self.prefix)
        told = [Span(str(one["version"]), begun + one["start"], begun + one["end"]) for one in meta["weight_versions"]]
        spans = join_spans(self.prefix.spans, told)
        if meta["completion_tokens"] != self._asked or not covers(spans, len(self.ids)):
            counts = f"{meta['completion_tokens']} tokens announced, {self._asked} came"
            raise EngineError("/generate", f"request {self.rid}: {counts}, with the spans {spans}", 200)
        self.spans = spans


@dataclass(eq=False)
class ResponseStream:
    """The answer to one POST: the requests whose end has not come, and those of them that are no longer awaited."""

    responses: dict[str, StreamedResponse]
    dropped: set[str] = field(default_factory=set)
    reading: asyncio.Timeout | None = None

    async def read(self, events: AsyncIterator[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        """The events, until they end or only dropped requests are left."""
        while not self.dropped or self.responses.keys() - self.dropped:
            try:
                async with asyncio.timeout(None) as self.reading:
                    event = await anext(events)
            except (StopAsyncIteration, TimeoutError):
                return
            finally:
                self.reading = None
            yield event

    def drop(self, rids: Sequence[str]) -> None:
        self.dropped.update(self.responses.keys() & rids)
        if self.reading is not None and self.responses.keys() == self.dropped:
            self.reading.reschedule(0)


def _fits(entry: Sequence[Any], token: Any) -> bool:
    """Whether `entry`, [logprob, token, …], holds a finite logprob for this token."""
    return entry[1] == token and isinstance(token, int) and token >= 0 and math.isfinite(entry[0])


def join_spans(first: Sequence[Span], second: Sequence[Span]) -> list[Span]:
    """Both, one after the other; where they meet in one version it is one span."""
    if first and second and first[-1].version == second[0].version and first[-1].end == second[0].start:
        return [*first[:-1], replace(first[-1], end=second[0].end), *second[1:]]
    return [*first, *second]


def _cut(spans: Sequence[Span], tokens: int) -> list[Span]:
    return [replace(span, end=min(span.end, tokens)) for span in spans if span.start < tokens]


def covers(spans: Sequence[Span], length: int) -> bool:
    """Whether the spans follow one another from 0 to `length`, none empty."""
    position = 0
    for span in spans:
        if span.start != position or span.end <= span.start:
            return False
        position = span.end
    return position == length


def parse_event(route: str, payload: bytes) -> dict[str, Any]:
    """One event as a JSON object. Raises EngineError for anything else, and for an error that SGLang reports."""
    try:
        event = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise EngineError(
            route, f"an event that is not JSON ({error}): {payload[:_ERROR_CHARACTERS]!r}", 200
        ) from error
    if not isinstance(event, dict):
        raise EngineError(route, f"an event that is no object: {event}", 200)
    if "error" in event:
        raise EngineError(route, str(event["error"]), 200)
    return event


def addressee(event: Mapping[str, Any], responses: Mapping[str, StreamedResponse]) -> StreamedResponse:
    """The response that the event belongs to. Raises EngineError if it is none of `responses`."""
    meta = event.get("meta_info")
    rid = meta.get("id") if isinstance(meta, dict) else None
    response = responses.get(str(rid))
    if response is None:
        raise EngineError("/generate", f"an event for the request {rid}, which was not asked or is complete", 200)
    return response
