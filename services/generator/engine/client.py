"""HTTP client of one SGLang server. It drives the simulated engine of the tests, too."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from dapo.algo.vocabulary import MASKED_LOGIT
from services.generator.engine.responses import EngineError, ResponseStream, StreamedResponse, addressee, parse_event
from services.generator.engine.silence import Silence

log = logging.getLogger(__name__)

_CONTROL_TIMEOUT_S = 30.0
_ABORT_TIMEOUT_S = 10.0
_LOADS_TIMEOUT_S = 10.0
_INTERRUPT_POLL_S = 0.2
_KEEPALIVE_S = 2.0
"""Below the 5 s after which SGLang closes an idle connection: a request sent into a closing one would be lost."""


@dataclass(frozen=True)
class EngineEndpoint:
    """An engine's URL, and the API keys of its generation routes and of its admin routes."""

    url: str
    api_key: str
    admin_key: str
    adapter: str | None = None
    """Name of the LoRA adapter that generates; None: the base model."""


@dataclass(frozen=True)
class SamplingParams:
    temperature: float
    max_new_tokens: int
    stop_token_ids: tuple[int, ...]
    """Empty: every response runs to its maximum."""
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    """Strings that end a response; the server needs its tokenizer for them."""
    masked: tuple[int, ...] = ()
    """Ids that are not sampled; log-probabilities are those without them."""

    def to_json(self, begun: int = 0) -> dict[str, Any]:
        """`begun`: tokens that the response has already."""
        return {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": -1,
            "max_new_tokens": self.max_new_tokens - begun,
            "stop_token_ids": list(self.stop_token_ids),
            "stop": list(self.stop),
            "ignore_eos": not self.stop_token_ids,
            "logit_bias": {str(token): MASKED_LOGIT for token in self.masked} or None,
            "skip_special_tokens": False,
        }


@dataclass(frozen=True)
class TensorDescription:
    name: str
    dtype: str
    shape: tuple[int, ...]


class EngineClient:
    """The routes of SGLang that a generator uses.

    - `generate`: a group is one POST of n independent requests with request ids of ours. The answer is one event
      stream, in which each event names its request. It has no time limit; `silence` is what EngineSupervisor looks at.
    - `abort` ends requests by their ids; `drop_lost` those that the engine has lost; `interrupt` all.
    - `pause`, `begin_update`, `receive_bucket`, `end_update`, `resume`: a weight update, in this order.
    - `init_group`, `destroy_group`: membership in a weight group.

    Every HTTP status is checked, and so are errors that SGLang reports inside a stream of status 200. All methods but
    `healthy` raise EngineError, also after `close`. Control methods raise it after `timeout_s` (abort: 10 s).
    """

    def __init__(self, endpoint: EngineEndpoint) -> None:
        self._endpoint = endpoint
        # A group is one long-lived connection: with a limit, groups would queue for connections.
        self._session = aiohttp.ClientSession(
            base_url=endpoint.url,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_S),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=10.0),
        )
        self._streams: list[ResponseStream] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self.interruptions = 0
        """Calls of `interrupt`: a request that was aborted while it changed was well."""
        self._warned = False
        self._heard_at = 0.0
        self._silence = Silence()

    @property
    def url(self) -> str:
        return self._endpoint.url

    async def close(self) -> None:
        await self._session.close()

    def silence(self) -> float:
        """Seconds since the last event of any response; 0 while no request runs."""
        return time.monotonic() - self._heard_at if self._streams else 0.0

    async def healthy(self, timeout_s: float) -> bool:
        """Whether the engine answers its health route. False while it starts, and after `close`."""
        if self._session.closed:
            return False
        try:
            async with self._session.get("/health", timeout=aiohttp.ClientTimeout(total=timeout_s)) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def generate(
        self, responses: Sequence[StreamedResponse], prompt: Sequence[int], sampling: SamplingParams
    ) -> AsyncGenerator[tuple[StreamedResponse, int], None]:
        """The rest of n responses to one prompt, new ones or begun ones (StreamedResponse.after).

        Yields, for each event, the response so far and the number of its new tokens.

        A response comes a last time when `finish` is set; those that `drop_lost` drops come at the end, empty, with the
        finish "abort". Closing the iterator aborts the requests that still run.
        """
        rids = [response.rid for response in responses]
        body: dict[str, Any] = {
            "rid": rids,
            "input_ids": [[*prompt, *response.ids] for response in responses],
            "sampling_params": [sampling.to_json(len(response.ids)) for response in responses],
            "return_logprob": True,
            "stream": True,
        }
        if self._endpoint.adapter is not None:
            body["lora_path"] = self._endpoint.adapter
        if not self._streams:
            self._heard_at = time.monotonic()
        stream = ResponseStream({response.rid: response for response in responses})
        self._streams.append(stream)
        self._idle.clear()
        for rid in rids:
            self._silence.heard(rid)
        try:
            async with aclosing(self._events("/generate", body)) as events:
                async for event in stream.read(events):
                    self._heard_at = time.monotonic()
                    response = addressee(event, stream.responses)
                    if response.rid in stream.dropped:
                        continue
                    new_tokens = response.extend(event)
                    response.conclude(sampling.stop_token_ids, sampling.max_new_tokens)
                    self._silence.heard(response.rid)
                    self._warn_once(response)
                    yield response, new_tokens
                    if response.finish is not None:
                        self._silence.ended(response.rid)
                        del stream.responses[response.rid]
        finally:
            self._streams.remove(stream)
            if not self._streams:
                self._idle.set()
            for rid in rids:
                self._silence.ended(rid)
        for rid in stream.dropped:
            yield StreamedResponse(rid, finish="abort", message="the engine has lost it"), 0
        if left := stream.responses.keys() - stream.dropped:
            raise EngineError("/generate", f"the stream ended before the requests {sorted(left)}", 200)

    def _warn_once(self, response: StreamedResponse) -> None:
        if response.ids and not (response.spans or self._warned):
            self._warned = True
            log.warning(
                "SGLang does not tell which weights sampled an unfinished response, so none is continued that is cut"
                " off: its plugin dapo_spans is missing. Install dapo anew"
            )

    async def drop_lost(self, limit_s: float, poll_s: float) -> list[str]:
        """End the requests of which nothing was heard for `limit_s` (see Silence), and return their ids.

        To be called every `poll_s`, so that a request which waits for room meanwhile is noticed.
        """
        if not self._silence.longer_than(poll_s):
            return []
        try:
            waiting = await self.waiting()
        except EngineError:
            self._silence.excuse()
            raise
        if waiting:
            self._silence.excuse()
            return []
        lost = self._silence.longer_than(limit_s)
        for stream in self._streams:
            stream.drop(lost)
        for rid in lost:
            self._silence.ended(rid)
        await self.abort(lost)
        return lost

    async def waiting(self, *, timeout_s: float = _LOADS_TIMEOUT_S) -> int:
        """Requests that wait for room in the engine."""
        route = "/v1/loads"
        self._check_open(route)
        headers = self._headers(self._endpoint.api_key)
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.get(route, params={"include": "core"}, headers=headers, timeout=timeout) as answer:
                text = await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise EngineError(route, str(error) or type(error).__name__) from error
        if answer.status != 200:
            raise EngineError(route, text.decode(errors="replace"), answer.status)
        try:
            return sum(load["num_waiting_reqs"] for load in orjson.loads(text)["loads"])
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise EngineError(route, f"no loads ({error!r}): {text!r}", 200) from error

    async def abort(self, rids: Sequence[str]) -> None:
        """End these requests. Unknown ids are ignored."""
        await asyncio.gather(*(self._control("/abort_request", {"rid": rid}, _ABORT_TIMEOUT_S) for rid in rids))

    async def interrupt(self, timeout_s: float) -> None:
        """End all requests, with the tokens that they have. Returns once all have ended; raises TimeoutError."""
        self.interruptions += 1
        async with asyncio.timeout(timeout_s):
            # Again, since requests may be on their way.
            while self._streams:
                await self._control("/abort_request", {"abort_all": True}, _ABORT_TIMEOUT_S)
                await self.drain(_INTERRUPT_POLL_S)

    async def drain(self, limit_s: float) -> bool:
        """Wait until no request runs, for `limit_s` at most. Returns whether none does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await self._idle.wait()
        return not self._streams

    async def pause(self, *, timeout_s: float = _CONTROL_TIMEOUT_S) -> None:
        """Halt generation. Running requests release their KV cache and are prefilled again after `resume`."""
        self._silence.halt()
        await self._control("/pause_generation", {"mode": "retract"}, timeout_s)

    async def resume(self, *, timeout_s: float = _CONTROL_TIMEOUT_S) -> None:
        await self._control("/continue_generation", {}, timeout_s)
        self._silence.excuse()

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

    async def destroy_group(self, name: str, *, timeout_s: float = _CONTROL_TIMEOUT_S) -> None:
        await self._control("/destroy_weights_update_group", {"group_name": name}, timeout_s)

    async def begin_update(self, *, timeout_s: float) -> None:
        await self._control("/begin_weight_update", {}, timeout_s)

    async def receive_bucket(
        self, group: str, tensors: Sequence[TensorDescription], *, version: str | None, timeout_s: float
    ) -> None:
        """Receive one flattened bucket and load it. `version` comes with the last one, which also flushes the cache."""
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

    async def _events(self, route: str, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
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
