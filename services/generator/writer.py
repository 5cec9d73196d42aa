"""Finished responses, written to the bus in batches that form by themselves while the last one is on its way.

Payload and text are stored before the completion is announced, so a reference never points at nothing.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dapo.bus import Bus, BusFull, Outcome
from dapo.contracts.arrays import encode_ids, encode_logprobs
from dapo.v1 import messages_pb2 as pb
from services.generator.engine.client import EngineError, Response
from services.generator.tokens import PromptCodec
from services.generator.weights.member import parse_version

log = logging.getLogger(__name__)

BATCH_LIMIT = 256
FULL_PAUSE_S = 1.0
FULL_ALERT_S = 60.0
"""Between two alerts while the server refuses completions for want of memory."""

_FINISH = {"stop": pb.FINISH_REASON_STOP, "length": pb.FINISH_REASON_LENGTH}


@dataclass(frozen=True)
class Finished:
    """A complete response of a group: `response.finish` is "stop" or "length"."""

    group_id: str
    index: int
    attempt: int
    prompt: Sequence[int]
    response: Response


def build_payload(finished: Finished) -> pb.CompletionPayload:
    """Raises EngineError for tokens beyond 32 bits, and for weights that no learner sent."""
    response = finished.response
    try:
        return pb.CompletionPayload(
            prompt_ids=encode_ids(finished.prompt),
            response_ids=encode_ids(response.ids),
            logprobs=encode_logprobs(response.logprobs),
            spans=[
                pb.VersionSpan(version=parse_version(span.version), start=span.start, end=span.end)
                for span in response.spans
            ],
        )
    except (ValueError, OverflowError) as error:
        raise EngineError("/generate", f"request {response.rid}: {error}; spans {response.spans}", 200) from error


def build_completion(
    finished: Finished, payload: pb.CompletionPayload, *, payload_key: str, text_key: str, generator_id: str
) -> pb.Completion:
    """`version_min` and `version_max` are steps."""
    steps = [span.version.step for span in payload.spans]
    response = finished.response
    return pb.Completion(
        group_id=finished.group_id,
        index=finished.index,
        attempt=finished.attempt,
        payload_key=payload_key,
        text_key=text_key,
        prompt_tokens=len(finished.prompt),
        response_tokens=len(response.ids),
        finish_reason=_FINISH[str(response.finish)],
        version_min=min(steps),
        version_max=max(steps),
        generator_id=generator_id,
    )


@dataclass(frozen=True)
class Entry:
    """A response in the writer's queue."""

    finished: Finished
    payload: pb.CompletionPayload
    outcome: asyncio.Future[Outcome]


class CompletionWriter:
    def __init__(self, bus: Bus, codec: PromptCodec, generator_id: str) -> None:
        self._bus = bus
        self._codec = codec
        self._id = generator_id
        self._queue: asyncio.Queue[Entry] = asyncio.Queue()

    def submit(self, finished: Finished) -> asyncio.Future[Outcome]:
        """The future tells what became of it, once it is durable. Raises EngineError as `build_payload`."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(Entry(finished, build_payload(finished), outcome))
        return outcome

    async def run(self) -> None:
        """Write what is queued, for ever."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < BATCH_LIMIT and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            outcomes = await self._write(batch)
            for entry, outcome in zip(batch, outcomes, strict=True):
                if not entry.outcome.done():
                    entry.outcome.set_result(outcome)

    async def _write(self, batch: Sequence[Entry]) -> list[Outcome]:
        # A batch of long responses takes seconds to decode; heartbeats and token streams must go on meanwhile.
        texts = await asyncio.to_thread(self._codec.decode, [entry.finished.response.ids for entry in batch])
        stored: dict[str, bytes] = {}
        completions: list[pb.Completion] = []
        for entry, text in zip(batch, texts, strict=True):
            finished, payload = entry.finished, entry.payload
            where = (finished.group_id, finished.index, finished.attempt)
            payload_key, text_key = self._bus.payload_key(*where), self._bus.text_key(*where)
            stored[payload_key] = payload.SerializeToString()
            stored[text_key] = text.encode()
            completions.append(
                build_completion(finished, payload, payload_key=payload_key, text_key=text_key, generator_id=self._id)
            )
        return await self._store(stored, completions)

    async def _store(self, stored: Mapping[str, bytes], completions: Sequence[pb.Completion]) -> list[Outcome]:
        # Memory comes back as steps are trained and checkpointed; until then this generator fills up and waits.
        since = alerted = time.monotonic()
        while True:
            try:
                await self._bus.put_payloads(stored)
                return await self._bus.write_completions(completions)
            except BusFull as error:
                now = time.monotonic()
                if now - alerted >= FULL_ALERT_S:
                    alerted = now
                    message = f"{self._id}: {len(completions)} completions wait for {now - since:.0f} s: {error}"
                    log.warning("%s", message)
                    await self._bus.emit_event("alert", {"worker_id": self._id, "message": message})
                await asyncio.sleep(FULL_PAUSE_S)
