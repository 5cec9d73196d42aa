"""Client of one SGLang server: its HTTP surface, and nothing of ours that it does not need.

A group goes out as one POST of n independent requests with request ids of our own; its answer is one event stream in
which every event names its request. Every status is checked, and a failure inside a 200 stream (SGLang answers so) is
found too. The same client drives the simulated engine of the tests.
"""

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import aiohttp
import orjson

Finish = Literal["stop", "length", "abort"]

CONTROL_TIMEOUT_S = 30.0
ABORT_TIMEOUT_S = 10.0
LONGEST_ERROR = 2000
KEEPALIVE_S = 2.0
"""SGLang closes a connection that idled for 5 s; a request sent into the closing one would be lost."""


class EngineError(Exception):
    """The engine refused, broke off or answered what it must not. `status` is None where no answer came."""

    def __init__(self, route: str, detail: str, status: int | None = None) -> None:
        code = "no answer" if status is None else f"HTTP {status}"
        super().__init__(f"SGLang {route}: {code}: {detail[:LONGEST_ERROR]}")
        self.route = route
        self.status = status


@dataclass(frozen=True)
class Endpoint:
    """Where an engine listens, and the keys of its generation and its control routes."""

    url: str
    api_key: str
    admin_key: str


@dataclass(frozen=True)
class Span:
    """Tokens [start, end) of a response were sampled by the weights named `version`."""

    version: str
    start: int
    end: int


@dataclass(frozen=True)
class SamplingParams:
    temperature: float
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    """Empty: every response runs to its maximum."""
    top_p: float = 1.0

    def to_json(self) -> dict[str, Any]:
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": -1,
            "max_new_tokens": self.max_new_tokens,
            "stop_token_ids": list(self.stop_token_ids),
            "ignore_eos": not self.stop_token_ids,
            "skip_special_tokens": False,
        }


@dataclass
class Response:
    """One request's tokens so far; complete once `finish` is set.

    ids and logprobs are equally long, the stop token counted once in each; spans then cover exactly [0, len(ids)).
    """

    rid: str
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    spans: list[Span] = field(default_factory=list)
    finish: Finish | None = None
    message: str = ""

    def extend(self, event: Mapping[str, Any]) -> int:
        """Take one event in; returns the number of new tokens.

        Raises EngineError where its arrays do not fit, or it is no event of the kind that SGLang sends.
        """
        try:
            return self._take(event)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            detail = f"request {self.rid}: an event without the expected fields ({error!r}): {event}"
            raise EngineError("/generate", detail, 200) from error

    def _take(self, event: Mapping[str, Any]) -> int:
        meta = event["meta_info"]
        reason = meta["finish_reason"]
        if reason is not None and reason["type"] == "abort":
            # What an abort carries may repeat tokens that were sent already: it is dropped, not trained on.
            self.finish, self.message = "abort", str(reason.get("message", ""))
            return 0
        ids = event["output_ids"]
        entries = meta["output_token_logprobs"]
        if len(entries) != len(ids) or not all(map(_fits, entries, ids)):
            detail = f"request {self.rid}: tokens {ids} came with the log-probabilities {entries}"
            raise EngineError("/generate", detail, 200)
        self.ids += ids
        self.logprobs += [entry[0] for entry in entries]
        if reason is not None:
            self._end(meta, reason["type"])
        return len(ids)

    def _end(self, meta: Mapping[str, Any], finish: str) -> None:
        if finish not in ("stop", "length"):
            raise EngineError("/generate", f"request {self.rid} ended with {finish!r}", 200)
        if not self.ids:
            raise EngineError("/generate", f"request {self.rid} ended without a token", 200)
        self.spans = [Span(str(span["version"]), span["start"], span["end"]) for span in meta["weight_versions"]]
        if meta["completion_tokens"] != len(self.ids) or not covers(self.spans, len(self.ids)):
            counts = f"{meta['completion_tokens']} tokens announced, {len(self.ids)} came"
            raise EngineError("/generate", f"request {self.rid}: {counts}, with the spans {self.spans}", 200)
        self.finish = "stop" if finish == "stop" else "length"


def _fits(entry: Sequence[Any], token: Any) -> bool:
    """Whether [log-probability, token, …] is a finite number for this very token."""
    return entry[1] == token and isinstance(token, int) and token >= 0 and math.isfinite(entry[0])


def covers(spans: Sequence[Span], length: int) -> bool:
    """Whether the spans follow one another from 0 to `length`, none empty."""
    position = 0
    for span in spans:
        if span.start != position or span.end <= span.start:
            return False
        position = span.end
    return position == length


def parse_event(route: str, payload: bytes) -> dict[str, Any]:
    """Raises EngineError for what is no JSON object, and for the failure that an object tells of."""
    try:
        event = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise EngineError(route, f"an event that is not JSON ({error}): {payload[:LONGEST_ERROR]!r}", 200) from error
    if not isinstance(event, dict):
        raise EngineError(route, f"an event that is no object: {event}", 200)
    if "error" in event:
        raise EngineError(route, str(event["error"]), 200)
    return event


def addressee(event: Mapping[str, Any], responses: Mapping[str, Response]) -> Response:
    """The response that the event belongs to. Raises EngineError where it names none of `responses`."""
    meta = event.get("meta_info")
    rid = meta.get("id") if isinstance(meta, dict) else None
    response = responses.get(str(rid))
    if response is None:
        raise EngineError("/generate", f"an event for the request {rid}, which was not asked or is complete", 200)
    return response


@dataclass(frozen=True)
class TensorDescription:
    name: str
    dtype: str
    shape: tuple[int, ...]


class Engine:
    """Methods raise EngineError, closed ones too; control methods also take `timeout_s`, after which they raise it
    without an answer.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        # A group is one long-lived connection; nothing is gained by queueing for a free one.
        self._session = aiohttp.ClientSession(
            base_url=endpoint.url,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
        )
        self._streams = 0
        self._heard_at = 0.0

    async def close(self) -> None:
        await self._session.close()

    def silence(self) -> float:
        """Seconds since the last event of a response, while there are requests; else 0."""
        return time.monotonic() - self._heard_at if self._streams else 0.0

    async def healthy(self, timeout_s: float) -> bool:
        """Whether the engine generates. False while it starts, and once closed."""
        if self._session.closed:
            return False
        try:
            async with self._session.get("/health", timeout=aiohttp.ClientTimeout(total=timeout_s)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def generate(
        self, rids: Sequence[str], prompt: Sequence[int], sampling: SamplingParams
    ) -> AsyncGenerator[tuple[Response, int], None]:
        """n responses to one prompt, as events come: the response so far, and how many of its tokens are new.

        A response whose `finish` is set is complete; it comes once. Leaving the iterator aborts what still runs.
        """
        body = {
            "rid": list(rids),
            "input_ids": [list(prompt)] * len(rids),
            "sampling_params": sampling.to_json(),
            "return_logprob": True,
            "stream": True,
        }
        responses = {rid: Response(rid) for rid in rids}
        if not self._streams:
            self._heard_at = time.monotonic()
        self._streams += 1
        try:
            async for event in self._events("/generate", body):
                self._heard_at = time.monotonic()
                response = addressee(event, responses)
                new_tokens = response.extend(event)
                yield response, new_tokens
                if response.finish is not None:
                    del responses[response.rid]
        finally:
            self._streams -= 1
        if responses:
            raise EngineError("/generate", f"the stream ended before the requests {sorted(responses)}", 200)

    async def abort(self, rids: Sequence[str]) -> None:
        """End requests; unknown ones are ignored."""
        await asyncio.gather(*(self._control("/abort_request", {"rid": rid}, ABORT_TIMEOUT_S) for rid in rids))

    async def pause(self, *, timeout_s: float = CONTROL_TIMEOUT_S) -> None:
        """Halt generation; running requests give their cache back and will be prefilled anew."""
        await self._control("/pause_generation", {"mode": "retract"}, timeout_s)

    async def resume(self, *, timeout_s: float = CONTROL_TIMEOUT_S) -> None:
        await self._control("/continue_generation", {}, timeout_s)

    async def flush_cache(self, *, timeout_s: float = CONTROL_TIMEOUT_S) -> None:
        await self._control("/flush_cache", {}, timeout_s)

    async def init_group(
        self, *, name: str, address: str, port: int, world_size: int, backend: str, timeout_s: float
    ) -> None:
        """Join a weight group as ranks 1… Blocks the engine until rank 0 has joined too."""
        body = {
            "group_name": name,
            "master_address": address,
            "master_port": port,
            "rank_offset": 1,
            "world_size": world_size,
            "backend": backend,
        }
        await self._control("/init_weights_update_group", body, timeout_s)

    async def destroy_group(self, name: str, *, timeout_s: float = CONTROL_TIMEOUT_S) -> None:
        await self._control("/destroy_weights_update_group", {"group_name": name}, timeout_s)

    async def begin_update(self, *, timeout_s: float) -> None:
        await self._control("/begin_weight_update", {}, timeout_s)

    async def receive_bucket(
        self, group: str, tensors: Sequence[TensorDescription], *, version: str | None, timeout_s: float
    ) -> None:
        """Receive one flattened broadcast and load it. `version` marks the last bucket: it flushes the cache too."""
        body = {
            "group_name": group,
            "names": [tensor.name for tensor in tensors],
            "dtypes": [tensor.dtype for tensor in tensors],
            "shapes": [list(tensor.shape) for tensor in tensors],
            "load_format": "flattened_bucket",
            "flush_cache": version is not None,
            "weight_version": version,
        }
        await self._control("/update_weights_from_distributed", body, timeout_s)

    async def end_update(self, *, timeout_s: float) -> None:
        await self._control("/end_weight_update", {}, timeout_s)

    async def _control(self, route: str, body: dict[str, Any], timeout_s: float) -> None:
        self._check_open(route)
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.post(
                route, data=orjson.dumps(body), headers=self._headers(self._endpoint.admin_key), timeout=timeout
            ) as answer:
                text = await answer.text(errors="replace")
        except TimeoutError as error:
            raise EngineError(route, f"timed out after {timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise EngineError(route, str(error) or type(error).__name__) from error
        if answer.status != 200:
            raise EngineError(route, text, answer.status)

    async def _events(self, route: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        self._check_open(route)
        try:
            async with self._session.post(
                route, data=orjson.dumps(body), headers=self._headers(self._endpoint.api_key)
            ) as answer:
                if answer.status != 200:
                    raise EngineError(route, await answer.text(errors="replace"), answer.status)
                buffer = b""
                async for data in answer.content.iter_any():
                    *blocks, buffer = (buffer + data).split(b"\n\n")
                    for block in blocks:
                        payload = block.removeprefix(b"data: ")
                        if payload == b"[DONE]":
                            return
                        yield parse_event(route, payload)
        except aiohttp.ClientError as error:
            raise EngineError(route, str(error) or type(error).__name__) from error
        raise EngineError(route, "the stream broke off")

    def _check_open(self, route: str) -> None:
        # aiohttp raises a bare RuntimeError for a closed session.
        if self._session.closed:
            raise EngineError(route, "this engine was replaced or stopped")

    @staticmethod
    def _headers(key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
