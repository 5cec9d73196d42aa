"""Runs for a generator beside a simulated engine, over a real Valkey."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from dapo.bus import Bus, Delivery
from dapo.contracts.arrays import decode_ids, decode_logprobs
from dapo.spec import RunSpec
from dapo.v1 import messages_pb2 as pb
from tests.support.generator.kit import Learner, make_task, running, until
from tests.support.models import EOS
from tests.support.simulator.engine import SimulatedServer

NAME = "generator-0"
FIRST = pb.Version(incarnation=1, step=0)
GROUP_SIZE = 4


class Run:
    def __init__(self, bus: Bus, epoch: int) -> None:
        self.bus = bus
        self.epoch = epoch

    async def issue(self, texts: list[str], first: int = 0, issued_version: int = 0) -> list[str]:
        tasks = [make_task(first + i, text, group_size=GROUP_SIZE) for i, text in enumerate(texts)]
        for task in tasks:
            task.issued_version = issued_version
        await self.bus.groups.issue(tasks, self.epoch)
        return [task.group_id for task in tasks]

    async def wait_count(self, state: str, count: int) -> None:
        async def reached() -> bool:
            return (await self.bus.groups.ledger())[state] == count

        await until(reached, f"{count} groups {state}")

    async def take(self, count: int, generator_id: str = "generator-9") -> list[Delivery]:
        """Up to `count` prompts, in the hands of another generator."""
        return await self.bus.streams.consume("prompts", generator_id, count=count, block_s=0)

    async def die(self, generator_id: str) -> None:
        await self.bus.control_server.client.delete(self.bus.keys.heartbeat("generator", generator_id))

    async def consumers(self) -> list[dict[str, Any]]:
        """Of the prompts: name, pending."""
        return await self.bus.control_server.client.xinfo_consumers(self.bus.keys.stream("prompts"), "generator")

    async def completions(self, count: int) -> list[pb.Completion]:
        """All entries of the stream, which must be `count`."""
        found = await self.bus.streams.consume("completions", "verifier-0", count=1000, block_s=0.5)
        assert len(found) == count
        return [pb.Completion.FromString(entry.data) for entry in found]


@asynccontextmanager
async def new_run(redis_url: str, name: str, spec_json: str, payload_url: str | None = None) -> AsyncIterator[Run]:
    bus = await Bus.connect(redis_url, name, payload_url=payload_url)
    try:
        await bus.runs.create(spec_json, "", "")
        yield Run(bus, await bus.lease.acquire("orchestrator"))
    finally:
        await bus.close()


async def check_payloads(run: Run, completions: list[pb.Completion]) -> None:
    """Each completion's payload says what its record says, and its spans cover it."""
    payloads = await run.bus.payloads.get([completion.payload_key for completion in completions])
    for completion, data in zip(completions, payloads, strict=True):
        payload = pb.CompletionPayload.FromString(data or b"")
        ids = decode_ids(payload.response_ids)
        assert len(ids) == len(decode_logprobs(payload.logprobs)) == completion.response_tokens > 0
        assert [span.start for span in payload.spans] == [0, *(span.end for span in payload.spans[:-1])]
        assert payload.spans[-1].end == len(ids)
        steps = [span.version.step for span in payload.spans]
        assert (min(steps), max(steps)) == (completion.version_min, completion.version_max)
        stopped = completion.finish_reason == pb.FINISH_REASON_STOP
        assert list(ids).count(EOS) == stopped == (ids[-1] == EOS)


def some_completions(run: Run):
    async def condition() -> bool:
        records = await run.bus.groups.read_many(await run.bus.groups.open_ids())
        missing = [await run.bus.groups.missing_indices(record.task.group_id) for record in records]
        return any(len(left) < GROUP_SIZE for left in missing)

    return condition


def pending(run: Run, count: int, prefix: str = ""):
    """Whether `count` prompts are in the hands of the generators whose names begin so."""

    async def condition() -> bool:
        found = await run.consumers()
        return sum(one["pending"] for one in found if one["name"].decode().startswith(prefix)) == count

    return condition


def called(server: SimulatedServer, route: str, times: int):
    async def condition() -> bool:
        return server.engine.calls[route] >= times

    return condition


@asynccontextmanager
async def serving(
    run: Run, spec: RunSpec, server: SimulatedServer, name: str = NAME, *, evaluates: bool = False
) -> AsyncIterator[Learner]:
    """The learner of a generator that serves the version FIRST."""
    async with running(run.bus, spec, name, server, evaluates=evaluates):
        learner = Learner(run.bus, name)
        await learner.wait_state("ready", has_version=False)
        await learner.announce(FIRST)
        yield learner
