"""Unfinished responses, as tests look at them."""

from collections.abc import Iterable

import pytest

from dapo.contracts.arrays import decode_ids, decode_logprobs
from dapo.v1 import messages_pb2 as pb
from services.generator.jobs import request_id
from services.generator.salvage import LEAST_TOKENS
from tests.support.bus import read_alerts
from tests.support.generator.runs import Run
from tests.support.simulator.engine import SimulatedEngine
from tests.support.simulator.responses import SimulatorOptions

LONG = SimulatorOptions(step_s=0.005, mean_tokens=100_000, stream_interval=4)
"""Every response runs to its maximum."""
MOST = 200
SECOND = pb.Version(incarnation=1, step=1)


def sampled(engine: SimulatedEngine, tokens: int):
    """Whether each of its requests has that many."""

    async def condition() -> bool:
        return bool(engine.requests) and all(one.sent >= tokens for one in engine.requests.values())

    return condition


def salvage_told(run: Run):
    async def condition() -> str | None:
        found = [one["message"] for one in await read_alerts(run.bus) if one["kind"] == "responses_salvaged"]
        return found[0] if found else None

    return condition


async def payload_of(run: Run, completion: pb.Completion) -> pb.CompletionPayload:
    (data,) = await run.bus.payloads.get([completion.payload_key])
    return pb.CompletionPayload.FromString(data or b"")


async def check_joined(run: Run, completions: Iterable[pb.Completion], first: SimulatedEngine, attempt: int = 0) -> int:
    """Each goes on where the request of that attempt was cut off, token by token. Returns the tokens salvaged."""
    total = 0
    for completion in completions:
        payload, kept = await payload_of(run, completion), completion.salvaged_tokens
        ids, logprobs = decode_ids(payload.response_ids), decode_logprobs(payload.logprobs)
        before = first.requests[request_id(completion.group_id, completion.index, attempt)]
        assert kept >= LEAST_TOKENS
        assert ids[:kept] == before.ids[:kept]
        assert logprobs[:kept] == pytest.approx(before.logprobs[:kept])
        total += kept
    return total


async def partials(run: Run) -> list[bytes]:
    return [key async for key in run.bus.payload_server.client.scan_iter(match="*:partial")]


def none_kept(run: Run):
    async def condition() -> bool:
        return not await partials(run)

    return condition
