"""Short ways to drive groups through the bus."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dapo.bus import Bus, Delivery, attempt_number
from dapo.bus.keys import AGENTS, RUNS
from dapo.v1 import messages_pb2 as pb

RUN = "test-run"


def drive(url: str, scenario: Callable[..., Awaitable[Any]], *, buses: int = 1, payload_url: str | None = None) -> None:
    """Runs `scenario(bus, ...)` with so many buses, each with the identity of a process of its own."""

    async def main() -> None:
        opened = [await Bus.connect(url, RUN, payload_url=payload_url, instance=f"process{n}") for n in range(buses)]
        try:
            await scenario(*opened)
        finally:
            for bus in opened:
                await bus.close()

    asyncio.run(main())


@contextmanager
def losing_deliveries(bus: Bus) -> Iterator[None]:
    """What the server delivers within the block does not arrive: the connection breaks before the reply."""
    connection = bus.control_server.once
    deliver = connection.xreadgroup

    async def deliver_and_break(*args: Any, **options: Any) -> None:
        await deliver(*args, **options)
        raise ConnectionResetError("the reply was lost")

    connection.xreadgroup = deliver_and_break
    try:
        yield
    finally:
        connection.xreadgroup = deliver


@contextmanager
def reads_outliving_their_cancellation(bus: Bus) -> Iterator[None]:
    """Blocking reads that are cancelled within the block go on at the server until their time is over."""
    connection = bus.control_server.once
    deliver = connection.xreadgroup

    async def deliver_all_the_same(*args: Any, **options: Any) -> Any:
        return await asyncio.shield(deliver(*args, **options))

    connection.xreadgroup = deliver_all_the_same
    try:
        yield
    finally:
        connection.xreadgroup = deliver


def group_id(number: int) -> str:
    return f"g{number:010d}"


def make_task(number: int, size: int = 4) -> pb.PromptTask:
    return pb.PromptTask(
        group_id=group_id(number), cursor=number, group_size=size, gold="42", prompt=pb.Prompt(text="6*7")
    )


def make_completion(bus: Bus, group: str, index: int, attempt: int = 1) -> pb.Completion:
    return pb.Completion(
        group_id=group,
        index=index,
        attempt=attempt,
        payload_key=bus.payloads.payload_key(group, index, attempt),
        text_key=bus.payloads.text_key(group, index, attempt),
        response_tokens=7,
    )


async def issue(bus: Bus, count: int, size: int = 4) -> int:
    """Groups 0 to count − 1; returns the orchestrator's epoch."""
    epoch = await bus.lease.acquire("orchestrator")
    await bus.groups.issue([make_task(number, size) for number in range(count)], epoch)
    return epoch


async def store(bus: Bus, completions: list[pb.Completion]) -> None:
    await bus.payloads.put({key: b"blob" for one in completions for key in (one.payload_key, one.text_key)})


async def generate(bus: Bus, deliveries: list[Delivery]) -> list[pb.Completion]:
    """Stores and writes what is missing of the delivered groups."""
    completions = [
        make_completion(bus, delivery.data.decode(), index, attempt_number(delivery.attempt, 0))
        for delivery in deliveries
        for index in await bus.groups.missing_indices(delivery.data.decode())
    ]
    await store(bus, completions)
    await bus.groups.write_completions(completions)
    return completions


def grade(delivery: Delivery, correct: bool = True) -> tuple[Delivery, pb.Grade]:
    return delivery, pb.Grade(
        completion=pb.Completion.FromString(delivery.data), correct=correct, reward=float(correct)
    )


async def score(bus: Bus, count: int = 1000) -> None:
    """Grades whatever waits on `completions`."""
    await bus.groups.write_grades(
        [grade(one) for one in await bus.streams.consume("completions", "verifier-0", count=count, block_s=0)]
    )


async def make_scored(bus: Bus, count: int, size: int = 4) -> tuple[int, list[Delivery]]:
    """Issues, generates and grades groups; returns the epoch and the deliveries of `scored`."""
    epoch = await issue(bus, count, size)
    await generate(bus, await bus.streams.consume("prompts", "generator-0", count=count, block_s=0))
    await score(bus, count * size)
    return epoch, await bus.streams.consume("scored", "orchestrator-0", count=count, block_s=0)


async def make_kept(bus: Bus, count: int, size: int = 4) -> int:
    epoch, deliveries = await make_scored(bus, count, size)
    for delivery in deliveries:
        await bus.groups.settle(delivery, delivery.data.decode(), "kept", "", epoch)
    return epoch


def make_batch(bus: Bus, number: int, groups: list[int], size: int = 4) -> pb.TrainBatch:
    trained = [
        pb.TrainGroup(
            group_id=group_id(group),
            samples=[
                pb.TrainSample(payload_key=bus.payloads.payload_key(group_id(group), index, 0)) for index in range(size)
            ],
        )
        for group in groups
    ]
    return pb.TrainBatch(batch=number, groups=trained)


async def stored_payloads(bus: Bus) -> set[str]:
    """Keys of all blobs on the payload server."""
    return {
        key.decode() async for key in bus.payload_server.client.scan_iter(match=f"{bus.keys.prefix}[pt]:*", count=1000)
    }


async def stream_length(bus: Bus, stream: str) -> int:
    return await bus.control_server.client.xlen(bus.keys.stream(stream))


async def read_alerts(bus: Bus) -> list[dict[str, Any]]:
    """The data of the alerts so far, as watchers are sent it."""
    return [event.data() for _, event in await bus.runs.read_events("0", block_s=0.1) if event.kind == "alert"]


async def everything(bus: Bus) -> dict[bytes, bytes]:
    """All that the run has on the server, byte for byte, the index of runs, and agents."""
    client = bus.control_server.client
    found = {key: await client.dump(key) async for key in client.scan_iter(match=f"{bus.keys.prefix}*", count=1000)}
    found |= {key: await client.dump(key) async for key in client.scan_iter(match=f"{AGENTS}*")}
    return found if (runs := await client.dump(RUNS)) is None else {**found, RUNS.encode(): runs}
