"""What the simulated engine answers: lengths, token ids and log-probabilities, of the seed and the request id."""

import asyncio
import hashlib
import math
import random
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class SimulatorOptions:
    seed: int = 0
    vocabulary: int = 11
    """Ids 0 … vocabulary − 1; a response ends with the first of its request's stop tokens."""
    mean_tokens: float = 8.0
    """Lengths are geometric with this mean, the stop token included, and cut at the request's maximum."""
    sigma: float = 0.0
    """Above 0 lengths are log-normal instead, with this deviation of the logarithm and the same mean: a long tail."""
    step_s: float = 0.002
    start_s: float = 0.0
    bucket_s: float = 0.0
    """Time to receive one bucket of weights."""
    stream_interval: int = 16
    tells_spans: bool = True
    """Each event tells the spans so far; otherwise the last one alone does, as SGLang by itself."""
    max_running: int = 1024


@dataclass
class SimulatedRequest:
    rid: str
    ids: list[int]
    stop: bool
    """Whether the last id is a stop token; otherwise the response is cut by its maximum."""
    logprobs: list[float]
    tells_spans: bool = True
    done: int = 0
    sent: int = 0
    spans: list[dict[str, Any]] = field(default_factory=list)
    events: "asyncio.Queue[dict[str, Any]]" = field(default_factory=asyncio.Queue)

    def advance(self, version: str) -> None:
        if not self.spans or self.spans[-1]["version"] != version:
            self.spans.append({"version": version, "start": self.done, "end": self.done})
        self.done += 1
        self.spans[-1]["end"] = self.done

    def emit(self, finish: dict[str, Any] | None) -> None:
        window = slice(self.sent, self.done)
        meta: dict[str, Any] = {
            "id": self.rid,
            "finish_reason": finish,
            "completion_tokens": self.done,
            "output_token_logprobs": [
                [logprob, token, None] for logprob, token in zip(self.logprobs[window], self.ids[window], strict=True)
            ],
        }
        if self.spans and (self.tells_spans or finish is not None):
            meta["weight_versions"] = [dict(span) for span in self.spans]
        self.events.put_nowait({"output_ids": self.ids[window], "meta_info": meta})
        self.sent = self.done

    def abort(self, *, queued: bool) -> None:
        """End it early. One that waits in the queue repeats the last token that it has sent, as SGLang has it."""
        reason = {"type": "abort", "message": "Aborted"}
        if not queued:
            return self.emit(reason)
        self.done = self.sent
        spans = [{**span, "end": min(span["end"], self.sent)} for span in self.spans if span["start"] < self.sent]
        meta = {"id": self.rid, "finish_reason": reason, "completion_tokens": self.sent, "weight_versions": spans}
        self.events.put_nowait({"output_ids": self.ids[: self.sent][-1:], "meta_info": meta})


def draw_length(options: SimulatorOptions, rng: random.Random) -> int:
    """In tokens, before it is cut at a request's maximum."""
    if options.sigma:
        middle = math.log(options.mean_tokens) - options.sigma**2 / 2
        return max(1, round(rng.lognormvariate(middle, options.sigma)))
    length = 1
    while rng.random() > 1 / options.mean_tokens:
        length += 1
    return length


def sample(options: SimulatorOptions, rid: str, sampling: dict[str, Any]) -> SimulatedRequest:
    rng = random.Random(hashlib.blake2b(f"{options.seed}/{rid}".encode()).digest())
    most = sampling["max_new_tokens"]
    length = min(most, draw_length(options, rng))
    stops = sampling["stop_token_ids"]
    stop = bool(stops) and length < most
    ids = [rng.randrange(options.vocabulary) for _ in range(length)]
    if stop:
        ids[-1] = stops[0]
    return SimulatedRequest(rid, ids, stop, [-rng.random() for _ in ids], options.tells_spans)
