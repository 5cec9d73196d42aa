"""Writes finished responses to the bus: payload and text first, then the completion that refers to them."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dapo.bus import BusFull, Outcome
from dapo.bus.roles import GeneratorBus
from dapo.contracts.arrays import encode_ids, encode_logprobs
from dapo.contracts.events import Alert
from dapo.v1 import messages_pb2 as pb
from services.generator.engine.responses import EngineError, StreamedResponse
from services.generator.membership import parse_version
from services.generator.texts import ReadResponse, ResponseReader

log = logging.getLogger(__name__)

_BATCH_LIMIT = 256
_FULL_PAUSE_S = 1.0
_FULL_ALERT_S = 60.0
"""Between two alerts while the server is out of memory and refuses completions."""

_FINISH = {"stop": pb.FINISH_REASON_STOP, "length": pb.FINISH_REASON_LENGTH}


@dataclass(frozen=True)
class FinishedResponse:
    """A complete response of a group: `response.finish` is "stop" or "length"."""

    group_id: str
    index: int
    attempt: int
    prompt: Sequence[int]
    response: StreamedResponse


def build_payload(prompt: Sequence[int], response: StreamedResponse) -> pb.CompletionPayload:
    """Raises EngineError for token ids beyond 32 bits, and for version names that no learner gave."""
    try:
        return pb.CompletionPayload(
            prompt_ids=encode_ids(prompt),
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
    finished: FinishedResponse,
    payload: pb.CompletionPayload,
    *,
    payload_key: str,
    text_key: str,
    generator_id: str,
    prompt_end: str,
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
        prompt_end=prompt_end,
        spans=payload.spans,
        salvaged_tokens=min(len(response.prefix), len(response.ids)),
    )


@dataclass(frozen=True)
class QueuedResponse:
    """A response in the writer's queue."""

    finished: FinishedResponse
    payload: pb.CompletionPayload
    outcome: asyncio.Future[Outcome]


class CompletionWriter:
    """Queue of finished responses, and the loop that writes them.

    Whatever is queued while one batch is written forms the next, of at most 256 responses.

    Invariants: payload and text are stored before the completion, so a reference never dangles; an outcome is set only
    once the bus has the completion.

    The queue is lost with the process: its responses are then missing in their groups and are generated again.
    While the server is out of memory, waits without limit and sends an alert every minute.
    """

    def __init__(self, bus: GeneratorBus, reader: ResponseReader, generator_id: str) -> None:
        self._bus = bus
        self._reader = reader
        self._id = generator_id
        self._queue: asyncio.Queue[QueuedResponse] = asyncio.Queue()

    def submit(self, finished: FinishedResponse) -> asyncio.Future[Outcome]:
        """Queue it. The future gives the outcome once it is written. Raises EngineError as `build_payload` does."""
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.put_nowait(QueuedResponse(finished, build_payload(finished.prompt, finished.response), outcome))
        return outcome

    async def run(self) -> None:
        """Write what is queued, for ever."""
        while True:
            batch = [await self._queue.get()]
            while len(batch) < _BATCH_LIMIT and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            outcomes = await self._write(batch)
            for entry, outcome in zip(batch, outcomes, strict=True):
                if not entry.outcome.done():
                    entry.outcome.set_result(outcome)

    async def _write(self, batch: Sequence[QueuedResponse]) -> list[Outcome]:
        # Decoding a batch of long responses takes seconds, during which heartbeats and streams must go on.
        read, ends = await asyncio.to_thread(self._read, batch)
        stored: dict[str, bytes] = {}
        completions: list[pb.Completion] = []
        for entry, found, end in zip(batch, read, ends, strict=True):
            finished, payload = entry.finished, entry.payload
            if found.stopped:
                # SGLang looks at the last few tokens only, so it may miss a string of unusual tokens and go on.
                finished = replace(finished, response=finished.response.cut(found.tokens))
                payload = build_payload(finished.prompt, finished.response)
            where = (finished.group_id, finished.index, finished.attempt)
            payload_key, text_key = self._bus.payloads.payload_key(*where), self._bus.payloads.text_key(*where)
            stored[payload_key] = payload.SerializeToString()
            stored[text_key] = found.text.encode()
            keys = {"payload_key": payload_key, "text_key": text_key}
            completions.append(build_completion(finished, payload, **keys, generator_id=self._id, prompt_end=end))
        return await self._store(stored, completions)

    def _read(self, batch: Sequence[QueuedResponse]) -> tuple[list[ReadResponse], list[str]]:
        """The responses as graders read them, and the last words of their prompts."""
        finished = [entry.finished for entry in batch]
        return self._reader.read([one.response.ids for one in finished]), self._reader.last_words(
            [one.prompt for one in finished]
        )

    async def _store(self, stored: Mapping[str, bytes], completions: Sequence[pb.Completion]) -> list[Outcome]:
        # Memory is freed as steps are trained and checkpointed; until then this generator waits.
        since = alerted = time.monotonic()
        while True:
            try:
                await self._bus.payloads.put(stored)
                return await self._bus.groups.write_completions(completions)
            except BusFull as error:
                now = time.monotonic()
                if now - alerted >= _FULL_ALERT_S:
                    alerted = now
                    message = f"{self._id}: {len(completions)} completions wait for {now - since:.0f} s: {error}"
                    log.warning("%s", message)
                    await self._bus.runs.emit(Alert(cause="redis_full", worker_id=self._id, message=message))
                await asyncio.sleep(_FULL_PAUSE_S)
